-- Who deletes rows of others does so alone: there are no deadlocks.
DO $$ BEGIN FOR i IN 1..120 LOOP INSERT INTO shared SELECT point(j, i), j FROM generate_series(1, 30) j;
  PERFORM pg_advisory_xact_lock(1); DELETE FROM shared WHERE p <@ box(point(i, i), point(i + 3, i + 3)); COMMIT; END LOOP; END $$;
