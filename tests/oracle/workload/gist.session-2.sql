DO $$ BEGIN FOR i IN 1..120 LOOP INSERT INTO shared SELECT point(j, i), j FROM generate_series(1, 30) j;
  DELETE FROM shared WHERE p <@ box(point(i, i), point(i + 3, i + 3)); COMMIT; END LOOP; END $$;
