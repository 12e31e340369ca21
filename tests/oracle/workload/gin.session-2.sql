-- Both sessions fill one pending list and one tree, and empty the list in each other's way.
DO $$ BEGIN FOR i IN 1..1500 LOOP
  INSERT INTO shared VALUES (i * 2, ARRAY[i, i % 3, i * 2 % 100]);
  IF i % 10 = 2 THEN DELETE FROM shared WHERE id % 5 = 2 AND id < i; END IF;
  IF i % 100 = 0 THEN PERFORM gin_clean_pending_list('shared_fast'); END IF; COMMIT;
END LOOP; END $$;
VACUUM shared;
