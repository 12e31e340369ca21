-- Inserts while vacuum goes over the indexes: it has to look again at what moves behind it.
DO $$ BEGIN FOR round IN 1..12 LOOP
  INSERT INTO points SELECT 100000 * round + i, point(random() * 1000, random() * 1000) FROM generate_series(1, 400) i;
  INSERT INTO texts SELECT 100000 * round + i, repeat('prefix', i % 90) || chr(97 + round) || i FROM generate_series(1, 200) i;
  COMMIT;
END LOOP; END $$;
