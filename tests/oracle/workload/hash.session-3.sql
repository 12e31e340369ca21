DO $$ BEGIN FOR i IN 1..60 LOOP PERFORM pg_sleep(0.01); PERFORM pg_advisory_xact_lock(1); DELETE FROM shared WHERE n % 10 = i % 10; COMMIT; END LOOP; END $$;
VACUUM shared; VACUUM shared; VACUUM shared;
