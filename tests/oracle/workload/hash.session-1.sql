SET enable_seqscan = off; SET enable_bitmapscan = off;
DO $$ BEGIN FOR i IN 1..250 LOOP INSERT INTO shared SELECT j, i FROM generate_series(i * 20, i * 20 + 19) j;
  DELETE FROM shared WHERE k = (i * 7) % 5000; COMMIT; END LOOP; END $$;
