-- Page images come and go while the server runs.
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT i, repeat('v', 50) FROM generate_series(1, 20000) i;
ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();
-- The checkpointer reads its settings before it goes on.
SELECT pg_sleep(0.2);
CHECKPOINT;
UPDATE t SET v = 'with images' WHERE id % 10 = 0;
VACUUM t;
UPDATE t SET v = 'with changes' WHERE id % 10 = 1;
CHECKPOINT;
INSERT INTO t SELECT i, 'more' FROM generate_series(30000, 35000) i;
ALTER SYSTEM RESET full_page_writes; SELECT pg_reload_conf();
SELECT pg_sleep(0.2);
CHECKPOINT;
UPDATE t SET v = 'without' WHERE id % 10 = 2;
SELECT v, count(*) FROM t GROUP BY v ORDER BY v;
