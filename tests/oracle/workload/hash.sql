-- Hash indexes: every kind of their records.
CREATE EXTENSION pageinspect;
CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION isn;
-- Growth from nothing: splits, split points, overflow pages of buckets whose keys are equal.
CREATE TABLE growing (k int, few int) WITH (autovacuum_enabled = off);
CREATE INDEX growing_k ON growing USING hash (k);
CREATE INDEX growing_few ON growing USING hash (few);
INSERT INTO growing SELECT i, i % 3 FROM generate_series(1, 6000) i;
-- Past 512 buckets split points come in phases, both in an index that begins with more and in one that grows beyond.
CREATE TABLE phases (k int) WITH (autovacuum_enabled = off);
INSERT INTO phases SELECT generate_series(1, 24000);
SET wal_consistency_checking = '';
CREATE INDEX phases_built ON phases USING hash (k) WITH (fillfactor = 10);
CREATE TABLE small_buckets (k int) WITH (autovacuum_enabled = off);
CREATE INDEX phases_grown ON small_buckets USING hash (k) WITH (fillfactor = 10);
INSERT INTO small_buckets SELECT generate_series(1, 18000);
RESET wal_consistency_checking;
INSERT INTO small_buckets SELECT generate_series(18001, 24000);
INSERT INTO phases SELECT generate_series(24001, 25000);
SELECT 1 / (count(*) = 2)::int FROM (VALUES ('phases_built'), ('phases_grown')) v(index),
  LATERAL hash_metapage_info(get_raw_page(index, 0)) WHERE 512 < maxbucket;
-- Vacuum after a third of the items of every page is gone: it moves what is left forward, page by page; some pages have
-- room for a part of what another page has (MOVE_PAGE_CONTENTS), at last there are pages to spare (SQUEEZE_PAGE).
CREATE TABLE chains (k int, n int) WITH (autovacuum_enabled = off);
CREATE INDEX chains_k ON chains USING hash (k);
INSERT INTO chains SELECT i % 2, i FROM generate_series(1, 12000) i;
DELETE FROM chains WHERE n % 3 = 0; CALL oracle.settle(); VACUUM chains;
DELETE FROM chains WHERE n % 5 = 0; CALL oracle.settle(); VACUUM chains;
-- Pages that are free are used again before the index grows.
INSERT INTO chains SELECT i % 2, i FROM generate_series(1, 3000) i;
DELETE FROM chains WHERE k = 1; CALL oracle.settle(); VACUUM chains;
INSERT INTO chains SELECT 7, i FROM generate_series(1, 3000) i;
DELETE FROM chains; CALL oracle.settle(); VACUUM chains;
INSERT INTO chains SELECT i, i FROM generate_series(1, 500) i;
-- One, two and three items of a page go: PageIndexMultiDelete has two ways.
CREATE TABLE single (k int) WITH (autovacuum_enabled = off);
CREATE INDEX ON single USING hash (k);
INSERT INTO single SELECT generate_series(1, 600);
DELETE FROM single WHERE k = 77; CALL oracle.settle(); VACUUM (INDEX_CLEANUP ON) single;
DELETE FROM single WHERE k IN (78, 79, 80, 81); CALL oracle.settle(); VACUUM (INDEX_CLEANUP ON) single;
DELETE FROM single WHERE k IN (90, 190, 290, 390, 490, 590, 91, 191); CALL oracle.settle(); VACUUM (INDEX_CLEANUP ON) single;
-- A scan that finds rows dead marks their items; an insertion into a full page takes them out (VACUUM_ONE_PAGE).
CREATE TABLE killed (k int, n int) WITH (autovacuum_enabled = off);
CREATE INDEX killed_k ON killed USING hash (k);
INSERT INTO killed SELECT 1, i FROM generate_series(1, 1200) i;
DELETE FROM killed WHERE n % 4 = 0; CALL oracle.settle();
SET enable_seqscan = off; SET enable_bitmapscan = off;
SELECT count(n) FROM killed WHERE k = 1;
INSERT INTO killed SELECT 1, i FROM generate_series(2001, 2600) i;
DELETE FROM killed WHERE n IN (5, 401, 1001); CALL oracle.settle();
SELECT count(n) FROM killed WHERE k = 1;
INSERT INTO killed SELECT 1, i FROM generate_series(3001, 3600) i;
-- Marked and not yet taken out, when a vacuum comes: it clears the page's flag.
DELETE FROM killed WHERE n % 5 = 0; CALL oracle.settle();
SELECT count(n) FROM killed WHERE k = 1;
VACUUM killed;
RESET enable_seqscan; RESET enable_bitmapscan;
-- Types, expressions, partial indexes, exclusion, relations without WAL, rebuilding.
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE types (id serial, t text, n numeric, u uuid, b bytea, c citext, h hstore, a int[], j jsonb, i inet, r int4range,
  m mood, s timestamptz, f float8, o oid, x xid8, y isbn13, l pg_lsn, v macaddr, w tid);
INSERT INTO types (t, n, u, b, c, h, a, j, i, r, m, s, f, o, x, y, l, v, w)
  SELECT 'text ' || g % 100, g / 7.0, md5(g::text)::uuid, decode(md5(g::text), 'hex'), 'C' || g, hstore('k', g::text), ARRAY[g, g % 5],
    jsonb_build_object('g', g), '10.0.0.0'::inet + g, int4range(g, g + 5), (ARRAY['sad', 'ok', 'happy'])[g % 3 + 1]::mood,
    '2020-01-01'::timestamptz + g * interval '1 hour', g / 3.0, g, g::text::xid8, '978-0-393-04002-9', ('0/' || to_hex(g))::pg_lsn,
    '08:00:2b:01:02:03', format('(%s,1)', g)::tid FROM generate_series(1, 300) g;
CREATE INDEX ON types USING hash (t); CREATE INDEX ON types USING hash (n); CREATE INDEX ON types USING hash (u);
CREATE INDEX ON types USING hash (b); CREATE INDEX ON types USING hash (c); CREATE INDEX ON types USING hash (h);
CREATE INDEX ON types USING hash (a); CREATE INDEX ON types USING hash (j); CREATE INDEX ON types USING hash (i);
CREATE INDEX ON types USING hash (r); CREATE INDEX ON types USING hash (m); CREATE INDEX ON types USING hash (s);
CREATE INDEX ON types USING hash (f); CREATE INDEX ON types USING hash (o); CREATE INDEX ON types USING hash (x);
CREATE INDEX ON types USING hash (y); CREATE INDEX ON types USING hash (l); CREATE INDEX ON types USING hash (v);
CREATE INDEX ON types USING hash (w); CREATE INDEX ON types USING hash (lower(t)) WHERE id % 2 = 0;
INSERT INTO types (t, n, c, a) SELECT 'text ' || g, g, 'c' || g, ARRAY[g] FROM generate_series(1, 1000) g;
UPDATE types SET n = n + 1, t = NULL WHERE id % 3 = 0;
DELETE FROM types WHERE id % 4 = 0; CALL oracle.settle(); VACUUM types;
CREATE INDEX CONCURRENTLY ON types USING hash (md5(t));
REINDEX TABLE types; VACUUM FULL types;
CREATE TABLE exclusive (k int, EXCLUDE USING hash (k WITH =));
INSERT INTO exclusive SELECT generate_series(1, 300);
INSERT INTO exclusive VALUES (1) ON CONFLICT DO NOTHING;
CREATE UNLOGGED TABLE unlogged (k int); CREATE INDEX ON unlogged USING hash (k);
INSERT INTO unlogged SELECT generate_series(1, 1000);
ALTER TABLE unlogged SET LOGGED;
INSERT INTO unlogged SELECT generate_series(1001, 1500);
CREATE UNLOGGED TABLE stays_unlogged (k int); CREATE INDEX ON stays_unlogged USING hash (k);
TRUNCATE single; INSERT INTO single SELECT generate_series(1, 100);
BEGIN; INSERT INTO single SELECT generate_series(1, 2000); ROLLBACK; CALL oracle.settle(); VACUUM single;
-- Sessions of their own, in the middle of each other's splits.
CREATE TABLE shared (k int, n int) WITH (autovacuum_enabled = off);
CREATE INDEX shared_k ON shared USING hash (k);
-- And where a cursor holds a bucket.
CREATE TABLE held (k int, n int) WITH (autovacuum_enabled = off);
CREATE INDEX held_k ON held USING hash (k);
INSERT INTO held SELECT i % 4, i FROM generate_series(1, 3000) i;
