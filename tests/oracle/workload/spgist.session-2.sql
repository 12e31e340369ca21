-- Deletes some of it again, and rolls back half of what it inserts.
DO $$ BEGIN FOR round IN 1..12 LOOP
  INSERT INTO points SELECT -i, point(random() * 10, random() * 10) FROM generate_series(1, 300) i;
  IF round % 2 = 0 THEN ROLLBACK; ELSE DELETE FROM points WHERE id % 7 = round % 7; COMMIT; END IF;
  DELETE FROM texts WHERE id % 11 = round % 11;
  COMMIT;
END LOOP; END $$;
