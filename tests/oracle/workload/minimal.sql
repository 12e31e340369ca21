-- setting: wal_level = minimal
-- setting: max_wal_senders = 0
-- setting: wal_skip_threshold = 1GB
-- Relations made and filled in one transaction are logged whole at its end, if they are small.
BEGIN; CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 5000) i;
UPDATE t SET v = 'updated' WHERE id % 10 = 0; CREATE INDEX ON t (v); COMMIT;
UPDATE t SET v = 'logged' WHERE id % 10 = 1;
BEGIN; TRUNCATE t; INSERT INTO t SELECT i, 'after' FROM generate_series(1, 2000) i; COMMIT; VACUUM t;
BEGIN; CREATE TABLE frozen (id int, v text); COPY (SELECT i, 'f' FROM generate_series(1, 4000) i) TO PROGRAM 'cat > minimal.csv' CSV;
COPY frozen FROM PROGRAM 'cat minimal.csv' CSV FREEZE; COMMIT;
-- GiST tells concurrent splits by LSN; without records they must come from elsewhere.
BEGIN; CREATE TABLE points (p point); CREATE INDEX ON points USING gist (p);
INSERT INTO points SELECT point(i % 97, i % 89) FROM generate_series(1, 4000) i; COMMIT;
INSERT INTO points SELECT point(i % 97, i % 89) FROM generate_series(1, 1000) i;
ALTER TABLE t ALTER v TYPE varchar; CLUSTER t USING t_pkey; VACUUM FULL frozen;
BEGIN; ALTER TABLE t ALTER id TYPE bigint; SAVEPOINT s; TRUNCATE t; ROLLBACK TO s; COMMIT;
SELECT count(*), min(v) FROM t;
SELECT count(*) FROM points WHERE p <@ box '((0,0),(10,10))';
