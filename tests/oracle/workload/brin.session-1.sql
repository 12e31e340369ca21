-- One session widens what the other summarises.
DO $$ BEGIN FOR i IN 1..4000 LOOP
  INSERT INTO shared VALUES (i, repeat(chr(97 + i % 26), i % 90)); COMMIT;
END LOOP; END $$;
