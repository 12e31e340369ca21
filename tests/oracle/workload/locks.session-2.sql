-- The same work as the other sessions', in another order.
SELECT setseed(0.2);
\set ON_ERROR_STOP off
DO $$ BEGIN FOR i IN 1..300 LOOP
  BEGIN
    PERFORM id FROM parents WHERE id = 1 + (i * 2) % 50 FOR KEY SHARE;
    INSERT INTO children (parent, v) VALUES (1 + (i * 2) % 50, repeat('2', i % 100));
    UPDATE counters SET n = n + 1 WHERE id = 1 + (i * (2 * 2 + 1)) % 400;
    UPDATE parents SET v = v + 1 WHERE id = 1 + (i + 2) % 50;
    IF i % 7 = 2 THEN RAISE EXCEPTION 'taken back'; END IF;
  EXCEPTION WHEN raise_exception THEN NULL; END;
  IF i % 3 = 0 THEN COMMIT; ELSIF i % 17 = 0 THEN ROLLBACK; END IF;
END LOOP; END $$;
-- Both meet in speculative insertion, and skip what the other has locked.
DO $$ BEGIN FOR i IN 1..400 LOOP
  INSERT INTO keyed VALUES (i, 'by one of them') ON CONFLICT (k) DO UPDATE SET v = 'by both';
  UPDATE queue SET taken = 'taken' WHERE id = (SELECT id FROM queue WHERE taken IS NULL ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1);
  COMMIT;
END LOOP; END $$;
-- Shared locks of several transactions on the same rows, under an update that keeps the key.
DO $$ BEGIN FOR i IN 1..100 LOOP
  PERFORM id FROM counters WHERE id <= 20 ORDER BY id FOR SHARE;
  PERFORM pg_sleep(0.001);
  COMMIT;
  BEGIN
    PERFORM id FROM counters WHERE id BETWEEN 30 AND 40 ORDER BY id FOR KEY SHARE;
    UPDATE counters SET n = n + 1 WHERE id = 30 + (i + 2) % 10;
  EXCEPTION WHEN deadlock_detected THEN NULL; END;
  COMMIT;
END LOOP; END $$;
VACUUM counters;
