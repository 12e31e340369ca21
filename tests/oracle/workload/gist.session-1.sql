DO $$ BEGIN FOR i IN 1..120 LOOP INSERT INTO shared SELECT point(i, j), j FROM generate_series(1, 30) j; COMMIT; END LOOP; END $$;
