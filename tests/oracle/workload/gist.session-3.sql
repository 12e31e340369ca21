DO $$ BEGIN FOR i IN 1..20 LOOP PERFORM pg_advisory_xact_lock(1); DELETE FROM shared WHERE n = i; COMMIT; PERFORM pg_sleep(0.02); END LOOP; END $$;
VACUUM shared; VACUUM shared;
