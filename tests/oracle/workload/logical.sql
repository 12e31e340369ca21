-- setting: wal_level = logical
-- What logical decoding needs of the log.
CREATE TABLE t (id int PRIMARY KEY, v text, big text); ALTER TABLE t REPLICA IDENTITY FULL;
ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
CREATE TABLE plain (id int PRIMARY KEY, v text);
CREATE TABLE user_catalog (id int PRIMARY KEY, v text) WITH (user_catalog_table = true);
SELECT slot_name FROM pg_create_logical_replication_slot('logical_slot', 'test_decoding');
INSERT INTO t SELECT i, 'v', repeat(md5(i::text), 100) FROM generate_series(1, 300) i;
INSERT INTO plain SELECT i, 'plain' FROM generate_series(1, 300) i;
UPDATE t SET v = 'w' WHERE id % 2 = 0; UPDATE plain SET v = v || 'w' WHERE id % 2 = 0; UPDATE plain SET id = id + 1000 WHERE id % 5 = 0;
DELETE FROM t WHERE id % 3 = 0; DELETE FROM plain WHERE id % 3 = 0;
COPY (SELECT i, 'copied' FROM generate_series(2001, 3000) i) TO PROGRAM 'cat > logical.csv' CSV; COPY plain FROM PROGRAM 'cat logical.csv' CSV;
-- Catalog changes in a transaction, and catalogs that are rewritten while a slot needs their rows.
BEGIN; CREATE TABLE made (i int); ALTER TABLE made ADD COLUMN j int; INSERT INTO made VALUES (1, 2); INSERT INTO user_catalog VALUES (1, 'a');
SAVEPOINT s; ALTER TABLE made ADD COLUMN k int; UPDATE user_catalog SET v = 'b'; ROLLBACK TO s; COMMIT;
INSERT INTO user_catalog SELECT i, 'c' FROM generate_series(2, 200) i; UPDATE user_catalog SET v = 'd'; DELETE FROM user_catalog WHERE id % 2 = 0;
VACUUM FULL user_catalog; VACUUM FULL pg_class; CLUSTER user_catalog USING user_catalog_pkey;
TRUNCATE plain; TRUNCATE t CASCADE; INSERT INTO plain VALUES (1, 'after');
INSERT INTO plain VALUES (1, 'conflict') ON CONFLICT (id) DO UPDATE SET v = 'updated';
BEGIN; INSERT INTO plain VALUES (2, 'prepared'); PREPARE TRANSACTION 'logical'; COMMIT PREPARED 'logical';
SELECT 0 < count(*) FROM pg_logical_slot_get_changes('logical_slot', NULL, NULL);
SELECT pg_drop_replication_slot('logical_slot');
SELECT * FROM plain ORDER BY id;
