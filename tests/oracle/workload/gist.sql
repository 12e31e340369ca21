-- GiST: every kind of its records that touches pages, every operator class of core and contrib.
CREATE EXTENSION btree_gist; CREATE EXTENSION cube; CREATE EXTENSION seg; CREATE EXTENSION ltree; CREATE EXTENSION pg_trgm;
CREATE EXTENSION hstore; CREATE EXTENSION intarray; CREATE EXTENSION pageinspect;
SELECT setseed(0.5);
-- Growth from nothing: tuples replaced by larger ones, splits of leaves, inner pages and the root.
CREATE TABLE points (id int, p point, b box) WITH (autovacuum_enabled = off);
CREATE INDEX points_p ON points USING gist (p); CREATE INDEX points_b ON points USING gist (b) INCLUDE (id);
INSERT INTO points SELECT i, point(x, y), box(point(x, y), point(x + random(), y + random()))
  FROM (SELECT i, random() * 1000 x, random() * 1000 y FROM generate_series(1, 6000) i) s;
-- Equal keys and those that are NULL split, too.
INSERT INTO points SELECT i, point(5, 5), box(point(5, 5), point(6, 6)) FROM generate_series(6001, 7500) i;
INSERT INTO points SELECT i, NULL, NULL FROM generate_series(7501, 8500) i;
-- Building: sorted, tuple by tuple, with buffers.
CREATE INDEX points_sorted ON points USING gist (p) WITH (fillfactor = 50);
CREATE INDEX points_plain ON points USING gist (p, b) WITH (buffering = off, fillfactor = 60);
CREATE INDEX points_buffered ON points USING gist (b) WITH (buffering = on);
SET maintenance_work_mem = '1MB'; CREATE INDEX points_many ON points USING gist (b, p) WITH (buffering = on); RESET maintenance_work_mem;
INSERT INTO points SELECT i, point(random() * 100, i % 100), box(point(i, i), point(i + 5, i + 7)) FROM generate_series(9001, 10500) i;
UPDATE points SET p = p + point(1, 1), b = b + point(3, 3) WHERE id % 6 = 0;
-- Vacuum: single items, many items, whole pages with their downlinks; pages that are gone are used again.
DELETE FROM points WHERE id IN (10, 20); CALL oracle.settle(); VACUUM (INDEX_CLEANUP ON) points;
DELETE FROM points WHERE id % 7 = 0; CALL oracle.settle(); VACUUM points;
DELETE FROM points WHERE p[0] BETWEEN 100 AND 800; CALL oracle.settle(); VACUUM points;
-- A page that was deleted may be used again only after transactions that could see it.
SELECT pg_current_xact_id() IS NOT NULL; CALL oracle.settle(); VACUUM (INDEX_CLEANUP ON) points; VACUUM (INDEX_CLEANUP ON) points;
INSERT INTO points SELECT i, point(random() * 1000, random() * 1000), box(point(i % 500, 1), point(i % 400, 2)) FROM generate_series(11001, 16000) i;
DELETE FROM points; CALL oracle.settle(); VACUUM points; VACUUM points;
INSERT INTO points SELECT i, point(i, i), box(point(i, i), point(i, i + 1)) FROM generate_series(1, 2500) i;
-- Scans that find rows dead mark their items; an insertion into a full page takes them out (DELETE).
CREATE TABLE killed (k point, n int) WITH (autovacuum_enabled = off);
CREATE INDEX killed_k ON killed USING gist (k);
INSERT INTO killed SELECT point(i % 20, i / 20), i FROM generate_series(1, 3000) i;
DELETE FROM killed WHERE n % 3 = 0; CALL oracle.settle();
SET enable_seqscan = off; SET enable_bitmapscan = off;
SELECT count(n) FROM killed WHERE k <@ box(point(0, 0), point(20, 200));
INSERT INTO killed SELECT point(i % 20, i / 20), i FROM generate_series(1, 3000) i;
DELETE FROM killed WHERE n IN (500, 501, 1700); CALL oracle.settle();
SELECT count(n) FROM killed WHERE k <@ box(point(0, 0), point(20, 200));
SELECT count(*) FROM (SELECT n FROM killed ORDER BY k <-> point(3, 3)) s;
INSERT INTO killed SELECT point(i % 20, i / 20), i FROM generate_series(1, 2000) i;
DELETE FROM killed WHERE n % 5 = 0; CALL oracle.settle();
SELECT count(n) FROM killed WHERE k <@ box(point(0, 0), point(20, 200));
VACUUM killed;
RESET enable_seqscan; RESET enable_bitmapscan;
-- Long keys: a split makes more than two pages, replaced tuples move others.
CREATE TABLE long (t text, r int[], v tsvector) WITH (autovacuum_enabled = off);
CREATE INDEX long_trigrams ON long USING gist (t gist_trgm_ops(siglen = 1500));
CREATE INDEX long_text ON long USING gist (t gist_text_ops);
CREATE INDEX long_r ON long USING gist (r gist__int_ops(numranges = 200));
CREATE INDEX long_v ON long USING gist (v tsvector_ops(siglen = 2000));
INSERT INTO long SELECT repeat(md5(i::text), 1 + i % 12), ARRAY(SELECT i * 3 + j * j FROM generate_series(1, 1 + i % 60) j),
  to_tsvector('simple', md5(i::text) || ' ' || md5((i * 7)::text) || ' w' || i % 10) FROM generate_series(1, 1500) i;
INSERT INTO long SELECT repeat(md5(i::text), 12 - i % 12), ARRAY[i], NULL FROM generate_series(1, 400) i;
UPDATE long SET t = reverse(t) WHERE r[1] % 3 = 0;
DELETE FROM long WHERE r[1] % 2 = 0; CALL oracle.settle(); VACUUM long;
INSERT INTO long SELECT md5(i::text), ARRAY[i, i + 1], to_tsvector('simple', md5(i::text)) FROM generate_series(1, 800) i;
-- Operator classes of core and contrib: grown by insertions and then built, with deletions in between.
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE classes (id int, box box, polygon polygon, circle circle, point point, inet inet, cidr cidr, tsvector tsvector, tsquery tsquery,
  int4range int4range, int8range int8range, numrange numrange, daterange daterange, tsrange tsrange, tstzrange tstzrange,
  int4multirange int4multirange, nummultirange nummultirange, datemultirange datemultirange,
  int2 int2, int4 int4, int8 int8, float4 float4, float8 float8, numeric numeric, money money, oid oid, text text, varchar varchar(40),
  bpchar char(12), bytea bytea, bit bit(12), varbit varbit, date date, time time, timetz timetz, timestamp timestamp,
  timestamptz timestamptz, interval interval, macaddr macaddr, macaddr8 macaddr8, uuid uuid, mood mood, bool bool,
  cube cube, seg seg, ltree ltree, ltrees ltree[], hstore hstore, ints int[]) WITH (autovacuum_enabled = off);
CREATE PROCEDURE fill(first int, last int) LANGUAGE sql AS $$
  INSERT INTO classes SELECT g, box(point(g % 50, g), point(g, g % 70)), polygon(5, circle(point(g % 90, g % 80), 3)), circle(point(g % 90, g % 80), g % 9),
    point(g % 90, g % 37), '10.0.0.0'::inet + g * 37 % 60000, set_masklen('10.0.0.0'::cidr, 8 + g % 24), to_tsvector('simple', md5(g::text) || ' a' || g % 9),
    (CASE g % 3 WHEN 0 THEN 'a' || g || ' & b' WHEN 1 THEN 'c | d' || g % 50 ELSE '!e' END)::tsquery,
    CASE g % 10 WHEN 0 THEN 'empty' WHEN 1 THEN int4range(NULL, g) ELSE int4range(g % 100, g % 100 + g % 30 + 1) END, int8range(g, g + 5), numrange(g / 3.0, g),
    daterange('2020-01-01'::date + g, '2021-01-01'::date + g), tsrange('2020-01-01', '2020-01-01'::timestamp + g * interval '1 min'), tstzrange('2020-01-01'::timestamptz + g * interval '1 day', NULL),
    int4multirange(int4range(g, g + 2), int4range(g + 5, g + 9)), nummultirange(numrange(g, g + 1)), datemultirange(),
    g % 3000, g * 31 % 4001, g::bigint << 33, g / 7.0, g / 9.0, g / 11.0, g::text::money, g, md5(g::text), 'v' || g, 'c' || g, decode(md5(g::text), 'hex'), g::bit(12), g::bit(20)::varbit,
    '2020-01-01'::date + g, '00:00'::time + g * interval '7 sec', '00:00+02'::timetz + g * interval '3 sec', '2020-01-01'::timestamp + g * interval '1 hour',
    '2020-01-01'::timestamptz + g * interval '1 hour', g * interval '1 min', ('08002b' || lpad(to_hex(g), 6, '0'))::macaddr, ('08002b0102' || lpad(to_hex(g), 6, '0'))::macaddr8,
    md5(g::text)::uuid, (ARRAY['sad', 'ok', 'happy'])[g % 3 + 1]::mood, g % 2 = 0,
    cube(ARRAY[g % 11, g % 13, g], ARRAY[g % 17, g, g % 5]), (g || ' .. ' || g + 3)::seg, ('top.a' || g % 20 || '.b' || g)::ltree,
    ARRAY[('top.x' || g)::ltree, ('y.z' || g % 7)::ltree], hstore(ARRAY['k' || g % 50, g::text, 'l', NULL]), ARRAY[g, g % 100, g * 2]
  FROM generate_series(first, last) g $$;
CREATE FUNCTION index_all(kind text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE columns text; n int := 0; BEGIN
  FOREACH columns IN ARRAY ARRAY['box box_ops', 'polygon poly_ops', 'circle circle_ops', 'point point_ops', 'inet inet_ops', 'inet gist_inet_ops', 'cidr gist_cidr_ops',
    'tsvector', 'tsvector tsvector_ops(siglen=20)', 'tsquery', 'int4range', 'int8range', 'numrange', 'daterange', 'tsrange', 'tstzrange', 'int4multirange', 'nummultirange',
    'datemultirange', 'int2', 'int4', 'int8', 'float4', 'float8', 'numeric', 'money', 'oid', 'text', 'varchar', 'bpchar', 'bytea', 'bit', 'varbit', 'date', 'time', 'timetz',
    'timestamp', 'timestamptz', 'interval', 'macaddr', 'macaddr8', 'uuid', 'mood', 'bool', 'cube', 'seg', 'ltree', 'ltree gist_ltree_ops(siglen=100)',
    'ltrees', 'ltrees gist__ltree_ops(siglen=50)', 'text gist_trgm_ops', 'text gist_trgm_ops(siglen=32)', 'hstore', 'hstore gist_hstore_ops(siglen=32)',
    'ints gist__int_ops', 'ints gist__int_ops(numranges=50)', 'ints gist__intbig_ops', 'ints gist__intbig_ops(siglen=60)',
    'int4, int4range, text', 'point, (id % 10)']
  LOOP EXECUTE format('CREATE INDEX %s_%s ON classes USING gist (%s)', kind, n, columns); n := n + 1; END LOOP; END $$;
SELECT index_all('grown'); CALL fill(1, 700);
INSERT INTO classes (id) SELECT generate_series(701, 800);
DELETE FROM classes WHERE id % 5 = 0; CALL oracle.settle(); VACUUM classes;
UPDATE classes SET int4 = int4 + 1, text = text || 'x' WHERE id % 11 = 0;
SELECT index_all('built'); CALL fill(801, 900);
DELETE FROM classes WHERE id < 400; CALL oracle.settle(); VACUUM classes;
REINDEX INDEX built_4; VACUUM FULL classes;
-- No operator class of any type is left out.
SELECT 1 / (count(*) = 0)::int FROM pg_opclass o JOIN pg_am m ON m.oid = opcmethod WHERE amname = 'gist'
  AND NOT EXISTS (SELECT FROM pg_index WHERE o.oid = ANY (indclass::oid[]));
-- Exclusion, deferred and not; partial and expression indexes; relations without WAL.
CREATE TABLE reserved (room int, during tsrange, EXCLUDE USING gist (room WITH =, during WITH &&) DEFERRABLE INITIALLY DEFERRED);
INSERT INTO reserved SELECT i % 40, tsrange('2020-01-01'::timestamp + i * interval '1 day', '2020-01-01'::timestamp + i * interval '1 day' + interval '3 hours') FROM generate_series(1, 2000) i;
DO $$ BEGIN FOR i IN 1..50 LOOP BEGIN INSERT INTO reserved VALUES (i % 40, tsrange('2020-01-01'::timestamp + i * interval '1 day', '2020-02-01'::timestamp + i * interval '1 day'));
  SET CONSTRAINTS ALL IMMEDIATE; EXCEPTION WHEN exclusion_violation THEN NULL; END; END LOOP; END $$;
CREATE TABLE circles (c circle, EXCLUDE USING gist (c WITH &&));
INSERT INTO circles SELECT circle(point(i % 60, i / 60), 0.4) FROM generate_series(1, 2000) i;
INSERT INTO circles SELECT circle(point(i, i), 3) FROM generate_series(1, 100) i ON CONFLICT DO NOTHING;
CREATE UNLOGGED TABLE unlogged (p point); CREATE INDEX ON unlogged USING gist (p);
INSERT INTO unlogged SELECT point(i, i) FROM generate_series(1, 1500) i;
ALTER TABLE unlogged SET LOGGED;
INSERT INTO unlogged SELECT point(i, i) FROM generate_series(1501, 2500) i;
CREATE UNLOGGED TABLE stays_unlogged (p point); CREATE INDEX ON stays_unlogged USING gist (p);
TRUNCATE killed; INSERT INTO killed SELECT point(i, 1), i FROM generate_series(1, 500) i;
BEGIN; INSERT INTO killed SELECT point(i, 2), i FROM generate_series(1, 1500) i; ROLLBACK; CALL oracle.settle(); VACUUM killed;
-- Keys so long that no root has room for two downlinks: the split of the page below is logged, and its end is an error.
-- The next insertion finds it unfinished, tries to finish it, and fails as well.
CREATE FUNCTION noise(seed int, bytes int) RETURNS text LANGUAGE sql AS $$
  SELECT left(string_agg(md5(seed::text || ' ' || i), ''), bytes) FROM generate_series(1, bytes / 32 + 1) i $$;
CREATE FUNCTION unfinished(index regclass) RETURNS bool LANGUAGE sql AS $$
  SELECT bool_or('follow_right' = ANY (flags)) FROM generate_series(0, pg_relation_size(index) / 8192 - 1) block,
    get_raw_page(index::text, block) page, gist_page_opaque_info(page) WHERE page <> repeat('\000', 8192)::bytea $$;
CREATE TABLE wide (id int, t text) WITH (autovacuum_enabled = off); ALTER TABLE wide ALTER t SET STORAGE PLAIN;
CREATE INDEX wide_t ON wide USING gist (t gist_text_ops);
INSERT INTO wide SELECT i, 'm' || noise(i, 200) FROM generate_series(1, 150) i;
DO $$ BEGIN FOR i IN 1..60 LOOP
  BEGIN INSERT INTO wide SELECT i, chr(97 + i * 7 % 26) || noise(i, 2900); EXCEPTION WHEN internal_error THEN NULL; END;
  EXIT WHEN unfinished('wide_t'); END LOOP; END $$;
SELECT 1 / unfinished('wide_t')::int;
DO $$ BEGIN FOR i IN 1..5 LOOP
  BEGIN INSERT INTO wide SELECT i, chr(97 + i) || noise(i, 20); EXCEPTION WHEN internal_error THEN NULL; END; END LOOP; END $$;
DELETE FROM wide WHERE id % 2 = 0; CALL oracle.settle(); VACUUM wide;
SELECT 1 / unfinished('wide_t')::int;
-- Which insertions failed is chance: GiST throws a coin between equal subtrees (gistchoose). The index stays as it is.
DELETE FROM wide;
-- Sessions of their own, in the middle of each other's splits.
CREATE TABLE shared (p point, n int) WITH (autovacuum_enabled = off);
CREATE INDEX shared_p ON shared USING gist (p);
