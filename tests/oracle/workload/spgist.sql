-- Every kind of SP-GiST record, with every operator class there is (no extension of contrib brings one).
CREATE TABLE points (id int, p point) WITH (autovacuum_enabled = off);
CREATE INDEX points_quad ON points USING spgist (p) INCLUDE (id);
CREATE INDEX points_kd ON points USING spgist (p kd_point_ops);
SELECT setseed(0.25);
INSERT INTO points SELECT i, point(random() * 1000, random() * 1000) FROM generate_series(1, 6000) i;
-- Equal values make inner tuples whose nodes are all the same; some nodes come to have no leaf on their page any more.
INSERT INTO points SELECT i, point(7, 7) FROM generate_series(6001, 8000) i;
INSERT INTO points SELECT i, NULL FROM generate_series(8001, 10000) i;
INSERT INTO points VALUES (NULL, point(1, 1)), (NULL, NULL);
CREATE INDEX points_built ON points USING spgist (p) WITH (fillfactor = 50);
INSERT INTO points SELECT i, point(i % 100, i / 100) FROM generate_series(10001, 13000) i;
-- Texts: long prefixes that are split later, labels that are added later, in a full page and in one with room.
CREATE TABLE texts (id int, t text) WITH (autovacuum_enabled = off);
CREATE INDEX texts_t ON texts USING spgist (t);
CREATE INDEX texts_reverse ON texts USING spgist (reverse(t) text_ops) INCLUDE (id, t) WHERE length(t) < 300;
INSERT INTO texts SELECT i, repeat('prefix', 100) || md5(i::text) FROM generate_series(1, 1500) i;
INSERT INTO texts SELECT i, left(repeat('prefix', 100), 7 * i % 600) || chr(32 + i % 90) || md5(i::text) FROM generate_series(1, 2500) i;
INSERT INTO texts SELECT i, chr(256 + i % 700) || chr(256 + i % 31) || md5(i::text) FROM generate_series(1, 4000) i;
INSERT INTO texts SELECT i, '' FROM generate_series(1, 700) i;
INSERT INTO texts SELECT i, NULL FROM generate_series(1, 700) i;
INSERT INTO texts SELECT i, 'https://example.org/' || i % 50 || '/' || i % 7 || '/' || chr(97 + i % 26) || i FROM generate_series(1, 5000) i;
INSERT INTO texts SELECT i, repeat(chr(97 + i % 26), i % 1800) || i FROM generate_series(1, 1200) i;
-- Labels in an order that makes inner tuples grow one node at a time, many of them on one page.
CREATE TABLE grown (t text) WITH (autovacuum_enabled = off);
CREATE INDEX grown_t ON grown USING spgist (t);
INSERT INTO grown SELECT chr(256 + a) || chr(300 + c) || repeat('z', b % 40) || b FROM generate_series(1, 12) b, generate_series(1, 30) a, generate_series(1, 30) c;
INSERT INTO grown SELECT chr(256 + a) || chr(400 + b) || repeat('y', 20) || c FROM generate_series(1, 150) b, generate_series(1, 30) a, generate_series(1, 4) c;
-- Boxes, polygons, ranges, networks.
CREATE TABLE shapes (b box, g polygon) WITH (autovacuum_enabled = off);
CREATE INDEX shapes_b ON shapes USING spgist (b);
CREATE INDEX shapes_g ON shapes USING spgist (g);
INSERT INTO shapes SELECT box(point(x, y), point(x + random() * 9, y + random() * 9)), polygon(box(point(x, y), point(x + 5, y + 3)))
  FROM (SELECT random() * 1000 x, random() * 1000 y FROM generate_series(1, 4000)) places;
INSERT INTO shapes SELECT NULL, NULL FROM generate_series(1, 50);
CREATE TABLE ranges (r int4range, d daterange, n inet, c cidr) WITH (autovacuum_enabled = off);
CREATE INDEX ranges_r ON ranges USING spgist (r);
CREATE INDEX ranges_d ON ranges USING spgist (d) INCLUDE (r, n);
CREATE INDEX ranges_n ON ranges USING spgist (n);
CREATE INDEX ranges_c ON ranges USING spgist (c inet_ops);
INSERT INTO ranges SELECT int4range(i * 7 % 1000, i * 7 % 1000 + i % 50), daterange('2000-01-01'::date + i % 900, '2005-01-01'::date + i % 700),
  ('10.' || i % 256 || '.' || i * 13 % 256 || '.' || i * 7 % 256)::inet, network(('2001:db8:' || to_hex(i * 131 % 65536) || '::')::inet)
  FROM generate_series(1, 4000) i;
INSERT INTO ranges SELECT 'empty', NULL, '0.0.0.0/0', '::/0' FROM generate_series(1, 600);
INSERT INTO ranges SELECT int4range(NULL, i), daterange('2001-01-01', NULL), set_masklen('192.168.0.0'::inet, i % 33), NULL FROM generate_series(1, 600) i;
ALTER TABLE ranges ADD EXCLUDE USING spgist (r WITH &&) WHERE (n = '172.16.0.1');
-- A root with leaves: deletion of some, of all, and insertion again.
CREATE TABLE small (p point) WITH (autovacuum_enabled = off);
CREATE INDEX small_p ON small USING spgist (p);
INSERT INTO small SELECT point(i, i) FROM generate_series(1, 60) i;
INSERT INTO small SELECT NULL FROM generate_series(1, 60) i;
DELETE FROM small WHERE p[0]::int % 3 = 0; CALL oracle.settle(); VACUUM small;
DELETE FROM small; CALL oracle.settle(); VACUUM small;
INSERT INTO small SELECT point(i, -i) FROM generate_series(1, 40) i;
-- A transaction in progress keeps redirections alive: this vacuum makes dead chains and placeholders only.
CREATE TABLE moment (i int);
BEGIN; INSERT INTO moment VALUES (1); PREPARE TRANSACTION 'older than every redirection';
INSERT INTO points SELECT i, point(random() * 1000, random() * 1000) FROM generate_series(20001, 23000) i;
INSERT INTO texts SELECT i, 'https://example.org/' || i % 50 || '/' || i % 11 || '/' || chr(97 + i % 26) || chr(300 + i % 200) || i FROM generate_series(20001, 23000) i;
INSERT INTO grown SELECT chr(256 + a) || chr(600 + b) || 'x' FROM generate_series(1, 120) b, generate_series(1, 30) a;
VACUUM points; VACUUM texts; VACUUM grown;
-- Then what was left behind goes.
DELETE FROM points WHERE id % 3 = 0 OR p ~= point(7, 7);
DELETE FROM texts WHERE id % 4 < 3;
COMMIT PREPARED 'older than every redirection';
CALL oracle.settle();
VACUUM points; VACUUM texts; VACUUM grown;
-- Placeholders and dead chains are used again.
INSERT INTO points SELECT i, point(random() * 1000, random() * 1000) FROM generate_series(30001, 36000) i;
INSERT INTO points SELECT i, point(7, 7) FROM generate_series(36001, 36500) i;
INSERT INTO points SELECT i, NULL FROM generate_series(36501, 37000) i;
INSERT INTO texts SELECT i, repeat('prefix', i % 90) || md5(i::text) FROM generate_series(30001, 32000) i;
INSERT INTO texts SELECT i, repeat('other', i % 90) || i FROM generate_series(30001, 32000) i;
UPDATE ranges SET r = int4range(lower(r) + 1, upper(r) + 3) WHERE NOT isempty(r) AND lower(r) < 500;
DELETE FROM ranges WHERE n << '10.0.0.0/9' OR isempty(r) OR c IS NULL;
DELETE FROM shapes WHERE b IS NULL OR (b[0])[0] < 500;
CALL oracle.settle();
VACUUM ranges; VACUUM shapes; VACUUM points; VACUUM texts;
INSERT INTO shapes SELECT box(point(i, i), point(i + 1, i + 1)), polygon(circle(point(i, i), 3)) FROM generate_series(1, 1500) i;
DELETE FROM points; DELETE FROM texts WHERE t LIKE 'https%' OR t = ''; DELETE FROM grown;
CALL oracle.settle();
VACUUM points; VACUUM texts; VACUUM grown; VACUUM points; VACUUM grown;
INSERT INTO points SELECT i, point(i, -i) FROM generate_series(40001, 42000) i;
INSERT INTO grown SELECT chr(256 + i % 500) || i FROM generate_series(1, 3000) i;
-- Failed insertions leave what they moved; unlogged indexes have only a first version in the log.
BEGIN; INSERT INTO points SELECT i, point(random() * 10, random() * 10) FROM generate_series(50001, 52000) i; ROLLBACK;
CREATE UNLOGGED TABLE unlogged (p point); CREATE INDEX ON unlogged USING spgist (p);
INSERT INTO unlogged SELECT point(i, i) FROM generate_series(1, 1000) i;
REINDEX INDEX texts_t;
VACUUM (TRUNCATE) points;
