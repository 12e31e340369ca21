SET enable_seqscan = off; SET enable_bitmapscan = off;
DO $$ DECLARE found int; BEGIN FOR i IN 1..250 LOOP INSERT INTO shared SELECT j % 5, i FROM generate_series(1, 15) j;
  SELECT count(n) INTO found FROM shared WHERE k = i % 5;
  PERFORM pg_advisory_xact_lock(1); UPDATE shared SET n = -1 WHERE k = i; COMMIT; END LOOP; END $$;
