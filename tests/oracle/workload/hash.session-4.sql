-- While a cursor holds a bucket, it is neither split nor squeezed.
SET enable_seqscan = off; SET enable_bitmapscan = off;
BEGIN; DECLARE c CURSOR FOR SELECT n FROM held WHERE k = 1; FETCH 1 FROM c;
SELECT oracle.signal('cursor');
DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'held'::regclass AND NOT granted)
  LOOP PERFORM pg_sleep(0.01); END LOOP; END $$;
COMMIT;
