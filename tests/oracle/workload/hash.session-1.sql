-- Who changes rows of others does so one after the other: there are no deadlocks.
SET enable_seqscan = off; SET enable_bitmapscan = off;
DO $$ BEGIN FOR i IN 1..250 LOOP INSERT INTO shared SELECT j, i FROM generate_series(i * 20, i * 20 + 19) j;
  PERFORM pg_advisory_xact_lock(1); DELETE FROM shared WHERE k = (i * 7) % 5000; COMMIT; END LOOP; END $$;
