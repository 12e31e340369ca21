DO $$ BEGIN FOR i IN 1..300 LOOP
  PERFORM brin_summarize_new_values('shared_v'); COMMIT;
  PERFORM brin_desummarize_range('shared_v', i % 50); COMMIT;
END LOOP; END $$;
