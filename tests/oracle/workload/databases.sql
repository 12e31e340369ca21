-- Databases, tablespaces, and files that are made anew.
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE kept LOCATION ''; CREATE TABLESPACE other LOCATION ''; CREATE TABLESPACE brief LOCATION '';
DROP TABLESPACE brief;
CREATE TABLE here (id int PRIMARY KEY, v text) TABLESPACE kept;
INSERT INTO here SELECT i, repeat('here', 20) FROM generate_series(1, 3000) i;
CREATE INDEX here_v ON here (v) TABLESPACE other;
ALTER TABLE here SET TABLESPACE other; ALTER TABLE here SET TABLESPACE kept; ALTER INDEX here_pkey SET TABLESPACE other;
DELETE FROM here WHERE id % 3 = 0; VACUUM here;
-- Both strategies, from a template with tables of its own, and into a tablespace.
CREATE DATABASE databases_template STRATEGY file_copy;
\connect databases_template
CREATE TABLE inherited (id int PRIMARY KEY, v text); INSERT INTO inherited SELECT i, md5(i::text) FROM generate_series(1, 5000) i;
CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY); INSERT INTO fleeting SELECT generate_series(1, 500);
CREATE SEQUENCE counted; SELECT count(nextval('counted')) FROM generate_series(1, 50);
DELETE FROM inherited WHERE id % 7 = 0; VACUUM inherited;
\connect databases
CREATE DATABASE databases_by_log TEMPLATE databases_template STRATEGY wal_log;
CREATE DATABASE databases_by_file TEMPLATE databases_template STRATEGY file_copy;
CREATE DATABASE databases_elsewhere TEMPLATE databases_template STRATEGY file_copy TABLESPACE other;
CREATE DATABASE databases_elsewhere_by_log TEMPLATE databases_template STRATEGY wal_log TABLESPACE kept;
\connect databases_by_log
UPDATE inherited SET v = 'changed' WHERE id % 2 = 0; VACUUM inherited; SELECT count(*) FROM inherited WHERE v = 'changed';
\connect databases_by_file
UPDATE inherited SET v = 'changed' WHERE id % 3 = 0; VACUUM inherited; SELECT count(*) FROM inherited WHERE v = 'changed';
\connect databases_elsewhere
UPDATE inherited SET v = 'changed' WHERE id % 5 = 0; SELECT count(*) FROM inherited WHERE v = 'changed';
\connect databases
ALTER DATABASE databases_elsewhere SET TABLESPACE kept;
\connect databases_elsewhere
INSERT INTO inherited SELECT i, 'moved' FROM generate_series(10001, 11000) i; SELECT count(*) FROM inherited;
\connect databases
DROP DATABASE databases_elsewhere_by_log;
-- Relation maps: mapped catalogs of the database and of the cluster get new files.
VACUUM FULL pg_class; VACUUM FULL pg_proc; REINDEX TABLE pg_class; VACUUM FULL pg_shdepend; REINDEX TABLE pg_database;
CLUSTER pg_attribute USING pg_attribute_relid_attnum_index;
BEGIN; REINDEX TABLE pg_class; ROLLBACK;
-- Relations that change what they are.
CREATE UNLOGGED TABLE u (id serial PRIMARY KEY, v text); INSERT INTO u (v) SELECT 'u' FROM generate_series(1, 1000);
ALTER TABLE u SET LOGGED; UPDATE u SET v = 'logged'; CREATE TABLE l (id int PRIMARY KEY); INSERT INTO l SELECT generate_series(1, 1000);
ALTER TABLE l SET UNLOGGED; UPDATE l SET id = -id;
BEGIN; CREATE TABLE never (i int); INSERT INTO never SELECT generate_series(1, 5000); TRUNCATE here; ROLLBACK;
BEGIN; TRUNCATE here; INSERT INTO here VALUES (1, 'one'); SAVEPOINT s; TRUNCATE here; ROLLBACK TO s; COMMIT;
SELECT * FROM here ORDER BY id; SELECT count(*), min(v) FROM u; SELECT count(*) FROM l;
