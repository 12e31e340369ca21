-- Heap, btree, sequences, generic records, transaction status. Sizes are small: shared_buffers are, too.
CREATE EXTENSION pageinspect;
CREATE TABLE plain (id int PRIMARY KEY, filler text, other int);
INSERT INTO plain SELECT i, repeat('x', i % 200), i FROM generate_series(1, 3000) i;
INSERT INTO plain VALUES (-1, NULL, NULL), (-2, 'a', NULL);
UPDATE plain SET filler = filler || 'longer and longer' WHERE id % 7 = 0;
UPDATE plain SET other = other + 1 WHERE id % 3 = 0;
UPDATE plain SET id = id + 100000 WHERE id % 11 = 0;
DELETE FROM plain WHERE id % 5 = 0;
VACUUM plain;
INSERT INTO plain SELECT i, 'again', i FROM generate_series(200000, 201000) i;
VACUUM FREEZE plain;
UPDATE plain SET other = 1 WHERE id % 50 = 1;
SELECT count(*) FROM plain WHERE id IN (SELECT id FROM plain WHERE id % 50 = 2) ;
-- Locks, savepoints, multixacts.
BEGIN; SELECT count(*) FROM (SELECT * FROM plain WHERE id < 100 FOR SHARE) s; COMMIT;
BEGIN; SELECT count(*) FROM (SELECT * FROM plain WHERE id < 100 FOR KEY SHARE) s;
SAVEPOINT a; UPDATE plain SET other = other - 1 WHERE id < 100; ROLLBACK TO a;
SAVEPOINT b; UPDATE plain SET filler = 'b' WHERE id < 50; SAVEPOINT c;
SELECT count(*) FROM (SELECT * FROM plain WHERE id < 60 FOR UPDATE) s; COMMIT;
BEGIN; UPDATE plain SET other = 0; ROLLBACK;
DO $$ BEGIN FOR i IN 1..200 LOOP BEGIN INSERT INTO plain VALUES (300000 + i, 'sub', i);
  IF i % 3 = 0 THEN RAISE EXCEPTION 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$;
-- Speculative insertion, also one that finds its row.
INSERT INTO plain VALUES (1, 'conflict', 1), (400000, 'new', 2) ON CONFLICT (id) DO UPDATE SET filler = 'updated';
INSERT INTO plain SELECT i, 'c', i FROM generate_series(1, 20) i ON CONFLICT DO NOTHING;
-- COPY and COPY FREEZE: multi-insert.
COPY (SELECT i, md5(i::text), i % 10 FROM generate_series(1, 20000) i) TO PROGRAM 'cat > copied.csv' CSV;
CREATE TABLE copied (id int, hash text, few int);
COPY copied FROM PROGRAM 'cat copied.csv' CSV;
BEGIN; CREATE TABLE frozen (id int, hash text, few int); COPY frozen FROM PROGRAM 'cat copied.csv' CSV FREEZE; COMMIT;
DELETE FROM frozen WHERE id % 9 = 0; VACUUM frozen;
-- Btrees: building, splits, duplicates and posting lists, deletion of pages, internal levels.
CREATE INDEX few ON copied (few);
CREATE INDEX hash ON copied (hash);
INSERT INTO copied SELECT i, md5(i::text), i % 10 FROM generate_series(30000, 45000) i;
INSERT INTO copied SELECT i, md5((i % 40)::text), 3 FROM generate_series(50000, 53000) i;
CREATE TABLE keys (k text); CREATE INDEX ON keys (k);
INSERT INTO keys SELECT repeat(chr(97 + i % 20), 200) || i FROM generate_series(1, 6000) i;
INSERT INTO keys SELECT 'same' FROM generate_series(1, 4000);
DELETE FROM keys WHERE k LIKE 'b%' OR k LIKE 'c%' OR k LIKE 'd%' OR k LIKE 'e%'; VACUUM keys;
DELETE FROM keys WHERE k = 'same' AND ctid IN (SELECT ctid FROM keys WHERE k = 'same' LIMIT 3000); VACUUM keys;
INSERT INTO keys SELECT repeat('c', 200) || i FROM generate_series(1, 500) i;
DELETE FROM keys WHERE k > 'f'; VACUUM keys; VACUUM keys;
CREATE TABLE churn (id int PRIMARY KEY, v int, pad text) WITH (fillfactor = 60);
CREATE INDEX ON churn (v);
INSERT INTO churn SELECT i, i % 5, repeat('p', 50) FROM generate_series(1, 2000) i;
DO $$ BEGIN FOR i IN 1..12 LOOP UPDATE churn SET v = (v + i) % 5 WHERE id % 4 = i % 4; END LOOP; END $$;
SELECT count(*) FROM churn WHERE v = 1; SET enable_seqscan = off; SELECT count(v) FROM churn WHERE v = 2; RESET enable_seqscan;
UPDATE churn SET v = v + 1; UPDATE churn SET pad = 'q' WHERE id % 2 = 0;
VACUUM churn;
-- Deletion of all but the last page empties whole subtrees and moves the fast root; its split moves it up again.
SET wal_consistency_checking = btree;
CREATE TABLE deep (k int, pad text) WITH (autovacuum_enabled = off); INSERT INTO deep SELECT i, '' FROM generate_series(1, 60000) i;
CREATE INDEX deep_k ON deep (k) WITH (fillfactor = 20);
DELETE FROM deep WHERE k < 59995;
CALL oracle.settle();
VACUUM deep; VACUUM deep;
INSERT INTO deep SELECT i, '' FROM generate_series(60001, 62000) i;
RESET wal_consistency_checking;
REINDEX INDEX deep_k; CLUSTER deep USING deep_k;
-- Sequences, in-place updates, toast.
CREATE SEQUENCE s; SELECT nextval('s') FROM generate_series(1, 100); SELECT setval('s', 5000); SELECT nextval('s');
CREATE TABLE toasted (id serial, t text); ALTER TABLE toasted ALTER t SET STORAGE EXTERNAL;
INSERT INTO toasted (t) SELECT repeat(md5(i::text), 500) FROM generate_series(1, 40) i; UPDATE toasted SET t = t || 'x' WHERE id % 3 = 0;
ANALYZE; VACUUM ANALYZE;
-- Two-phase.
BEGIN; INSERT INTO plain VALUES (500001, 'p', 1); SAVEPOINT x; INSERT INTO plain VALUES (500002, 'p', 1); PREPARE TRANSACTION 'one'; COMMIT PREPARED 'one';
BEGIN; INSERT INTO plain VALUES (500003, 'p', 1); PREPARE TRANSACTION 'two'; ROLLBACK PREPARED 'two';
-- A lock on a row that a transaction in progress has updated goes on to the new version.
BEGIN; UPDATE plain SET other = 9 WHERE id = 1; PREPARE TRANSACTION 'three';
BEGIN; SELECT id FROM plain WHERE id = 1 FOR KEY SHARE; COMMIT; COMMIT PREPARED 'three';
-- Locks on frozen pages clear the frozen bit, and only that.
SELECT count(*) FROM (SELECT id FROM frozen WHERE id < 20 FOR UPDATE) s;
-- Enough multixacts for the next pages of offsets and members, enough transactions for the next page of their status.
CREATE TABLE shared (id int PRIMARY KEY); INSERT INTO shared SELECT generate_series(1, 2500);
SET wal_consistency_checking = '';
DO $$ BEGIN PERFORM id FROM shared FOR KEY SHARE;
  FOR i IN 1..2500 LOOP BEGIN PERFORM id FROM shared WHERE id = i FOR NO KEY UPDATE;
  EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$;
CREATE TEMPORARY TABLE unlogged (i int);
DO $$ BEGIN FOR i IN 1..33000 LOOP BEGIN INSERT INTO unlogged VALUES (i);
  EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$;
RESET wal_consistency_checking;
-- Generic records.
CREATE EXTENSION bloom; CREATE TABLE bloomed (a int, b int); CREATE INDEX ON bloomed USING bloom (a, b);
INSERT INTO bloomed SELECT i, i % 7 FROM generate_series(1, 2000) i; DELETE FROM bloomed WHERE a % 3 = 0; VACUUM bloomed;
-- Partitions: rows that move.
CREATE TABLE parts (id int, p int) PARTITION BY LIST (p);
CREATE TABLE part1 PARTITION OF parts FOR VALUES IN (1); CREATE TABLE part2 PARTITION OF parts FOR VALUES IN (2);
INSERT INTO parts SELECT i, 1 FROM generate_series(1, 100) i; UPDATE parts SET p = 2 WHERE id % 2 = 0;
-- Truncation in mid-relation, by vacuum.
DELETE FROM copied WHERE id > 20000; VACUUM (TRUNCATE) copied;
TRUNCATE keys; INSERT INTO keys VALUES ('after'); CREATE TABLE gone (i int); INSERT INTO gone VALUES (1); DROP TABLE gone;
ALTER TABLE plain ADD COLUMN added int DEFAULT 7; ALTER TABLE plain ALTER other TYPE bigint; VACUUM FULL plain;
CREATE DATABASE copy_of TEMPLATE template0 STRATEGY wal_log; DROP DATABASE copy_of;
SET wal_compression = pglz; CREATE INDEX c1 ON plain (filler); SET wal_compression = lz4; CREATE INDEX c2 ON plain (other);
SET wal_compression = zstd; CREATE INDEX c3 ON plain (id, other); RESET wal_compression;
