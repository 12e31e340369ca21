-- setting: full_page_writes = on
-- setting: wal_log_hints = on
-- A page whose first change after a checkpoint is a hint is logged whole.
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT i, 'v' FROM generate_series(1, 5000) i;
BEGIN; INSERT INTO t SELECT i, 'aborted' FROM generate_series(5001, 6000) i; ROLLBACK;
CHECKPOINT;
SELECT count(*) FROM t;
CHECKPOINT;
DELETE FROM t WHERE id % 2 = 0;
CHECKPOINT;
SELECT count(*) FROM t; SET enable_seqscan = off; SELECT count(*) FROM (SELECT id FROM t WHERE id BETWEEN 100 AND 3000 ORDER BY id) s;
CHECKPOINT;
SELECT count(*) FROM (SELECT id FROM t WHERE id BETWEEN 100 AND 3000 ORDER BY id) s;
VACUUM t; CHECKPOINT;
UPDATE t SET v = 'u' WHERE id % 3 = 0; SELECT count(*) FROM t WHERE v = 'u';
