-- The indexes find what the tables have.
CALL oracle.settle(); VACUUM points; VACUUM texts;
SET enable_seqscan = off;
CREATE TEMPORARY TABLE found AS SELECT count(*) AS inside FROM points WHERE p <@ box '((0,0),(500,500))';
CREATE TEMPORARY TABLE found_texts AS SELECT count(*) AS inside FROM texts WHERE t >= 'prefix' AND t ^@ 'prefix';
RESET enable_seqscan; SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off;
DO $$ BEGIN
  ASSERT (SELECT inside FROM found) = (SELECT count(*) FROM points WHERE p <@ box '((0,0),(500,500))');
  ASSERT (SELECT inside FROM found_texts) = (SELECT count(*) FROM texts WHERE t >= 'prefix' AND t ^@ 'prefix');
END $$;
