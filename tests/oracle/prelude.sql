-- What every database of the workload has before its file runs.
CREATE SCHEMA oracle;
-- Waits until nobody holds a snapshot that is older than this call: what was deleted before it, a vacuum takes away.
-- Commits as it waits, so that two sessions may settle at once.
CREATE PROCEDURE oracle.settle() LANGUAGE plpgsql AS $$
DECLARE now_running xid;
BEGIN
  now_running := pg_current_xact_id()::xid;
  LOOP
    COMMIT;
    PERFORM pg_stat_clear_snapshot();
    EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity
      WHERE pid <> pg_backend_pid() AND age(now_running) <= greatest(age(backend_xmin), age(backend_xid)));
    PERFORM pg_sleep(0.01);
  END LOOP;
END $$;
-- Sessions of one scenario meet by names: what one signals, the others can await, in the midst of transactions as well.
CREATE FUNCTION oracle.signal(name text) RETURNS void LANGUAGE sql AS $$
  SELECT pg_advisory_lock_shared(1, hashtext(name)) $$;
CREATE FUNCTION oracle.await(name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  WHILE NOT EXISTS (SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database
      WHERE datname = current_database() AND locktype = 'advisory' AND classid = 1
        AND objid = (hashtext(name)::bigint & 4294967295)::oid AND granted)
  LOOP PERFORM pg_sleep(0.005); END LOOP;
END $$;
-- Until a session of this scenario waits for a lock.
CREATE FUNCTION oracle.await_blocked() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  LOOP
    PERFORM pg_stat_clear_snapshot();
    EXIT WHEN EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock');
    PERFORM pg_sleep(0.005);
  END LOOP;
END $$;
