-- BRIN: summaries that are made, grow, move and go, the range map, and every operator class.
-- One row a page and one page a range: the range map needs more than one page, and takes the place of summaries.
CREATE TABLE wide (id int, filler text, v text) WITH (autovacuum_enabled = off);
ALTER TABLE wide ALTER filler SET STORAGE PLAIN;
CREATE INDEX wide_v ON wide USING brin (v) WITH (pages_per_range = 1);
CREATE INDEX wide_id ON wide USING brin (id int4_bloom_ops) WITH (pages_per_range = 1);
INSERT INTO wide SELECT i, repeat('f', 7000), repeat('v', i % 20) FROM generate_series(1, 3000) i;
SELECT brin_summarize_new_values('wide_v') > 2900; SELECT brin_summarize_new_values('wide_id') > 2900;
-- Summaries that grow in their place, and then out of their page.
INSERT INTO wide SELECT i, NULL, repeat('a', i % 13) FROM generate_series(1, 300) i;
INSERT INTO wide SELECT i, NULL, repeat('z', i % 60) FROM generate_series(1, 3000) i;
UPDATE wide SET v = repeat('y', id % 300) WHERE id % 3 = 0;
-- Ranges lose their summaries, and get others.
SELECT count(brin_desummarize_range('wide_v', i)) FROM generate_series(0, 2900, 7) i;
SELECT count(brin_desummarize_range('wide_v', i)) FROM generate_series(2000, 1700, -1) i;
UPDATE wide SET v = v || '!' WHERE id % 7 = 1;
SELECT sum(brin_summarize_range('wide_v', i)) > 0 FROM generate_series(0, 2900, 14) i;
SELECT count(brin_desummarize_range('wide_id', i)) FROM generate_series(0, 200) i;
INSERT INTO wide SELECT i, repeat('f', 7000), repeat('w', i % 500) FROM generate_series(3001, 4500) i;
VACUUM wide; DELETE FROM wide WHERE id % 2 = 0; CALL oracle.settle(); VACUUM wide;
INSERT INTO wide SELECT i, repeat('f', 7000), repeat('x', 1000 + i % 500) FROM generate_series(4501, 4600) i;
VACUUM wide;
-- Summaries of many columns are long, and few on a page.
CREATE TABLE long (a text, b text, c text) WITH (autovacuum_enabled = off, fillfactor = 10);
CREATE INDEX long_abc ON long USING brin (a, b, c) WITH (pages_per_range = 1, autosummarize = on);
INSERT INTO long SELECT 'a', 'b', NULL FROM generate_series(1, 600);
SELECT brin_summarize_new_values('long_abc') > 0;
INSERT INTO long SELECT repeat('0', i), repeat('~', i), repeat('m', i % 50) FROM generate_series(1, 600) i;
UPDATE long SET a = repeat('~', length(a) % 400), c = b; VACUUM long;
UPDATE long SET b = NULL; VACUUM long; REINDEX INDEX CONCURRENTLY long_abc;
CREATE UNLOGGED TABLE unlogged (i int); CREATE INDEX ON unlogged USING brin (i);
INSERT INTO unlogged SELECT generate_series(1, 500); ALTER TABLE unlogged SET LOGGED; INSERT INTO unlogged VALUES (0);
-- Every operator class.
CREATE TABLE expressions (type regtype PRIMARY KEY, value text);
INSERT INTO expressions VALUES
  ('bytea', 'decode(md5(i::text), ''hex'')'), ('"char"', 'chr(33 + i % 90)::"char"'), ('name', 'md5(i::text)'),
  ('int8', 'i'), ('int2', 'i'), ('int4', 'i'), ('text', 'repeat(md5(i::text), 1 + i / 200)'), ('oid', 'i'),
  ('tid', '(''('' || i || '',1)'')::tid'), ('float4', 'i / 3.0'), ('float8', 'i / 3.0'),
  ('macaddr', 'lpad(to_hex(i), 12, ''0'')::macaddr'), ('macaddr8', 'lpad(to_hex(i), 16, ''0'')::macaddr8'),
  ('inet', 'set_masklen(inet ''10.0.0.0'' + i * 1000, 8 + i % 25)'), ('bpchar', 'md5(i::text)'), ('time', 'time ''00:00'' + i * interval ''1 s'''),
  ('date', 'date ''2020-01-01'' + i'), ('timestamp', 'timestamp ''2020-01-01'' + i * interval ''1 hour'''),
  ('timestamptz', 'timestamptz ''2020-01-01'' + i * interval ''1 hour'''), ('interval', 'i * interval ''1 min'''),
  ('timetz', 'timetz ''00:00+1'' + i * interval ''1 s'''), ('bit', 'i::bit(32)'), ('varbit', 'i::bit(32)::varbit'), ('numeric', '(i * 1.7)::numeric'),
  ('uuid', 'md5(i::text)::uuid'), ('pg_lsn', '''0/0''::pg_lsn + i'), ('box', 'box(point(i, i), point(i + 5, -i))'), ('int4range', 'int4range(i, i * 2)');
CREATE TABLE classes (class name, type regtype, value text);
INSERT INTO classes SELECT opcname, expressions.type, expressions.value FROM pg_opclass JOIN pg_am ON pg_am.oid = opcmethod
  JOIN expressions ON expressions.type = CASE opcintype WHEN 'anyrange'::regtype THEN 'int4range'::regtype ELSE opcintype::regtype END
  WHERE amname = 'brin';
DO $$ DECLARE each classes;
BEGIN
  FOR each IN SELECT * FROM classes LOOP
    EXECUTE format('CREATE TABLE %I (v %s, filler text) WITH (fillfactor = 20)', each.class || each.type, CASE each.type WHEN 'bit'::regtype THEN 'bit(32)' WHEN 'bpchar'::regtype THEN 'char(40)' ELSE each.type::text END);
    EXECUTE format('CREATE INDEX %I ON %I USING brin (v %I) WITH (pages_per_range = 1)', each.class || each.type || '_v', each.class || each.type, each.class);
    EXECUTE format('INSERT INTO %I SELECT %s, repeat(''f'', 100) FROM generate_series(1, 400) i', each.class || each.type, each.value);
    EXECUTE format('INSERT INTO %I VALUES (NULL)', each.class || each.type);
    PERFORM brin_summarize_new_values(format('%I', each.class || each.type || '_v')::regclass);
    EXECUTE format('INSERT INTO %I SELECT %s FROM generate_series(1, 1000, 3) i', each.class || each.type, each.value);
    EXECUTE format('INSERT INTO %I SELECT %s FROM generate_series(1000, 1, -5) i', each.class || each.type, each.value);
    EXECUTE format('DELETE FROM %I WHERE ctid < ''(3,1)''', each.class || each.type);
  END LOOP;
END $$;
CALL oracle.settle(); VACUUM;
DO $$ DECLARE class text;
BEGIN
  FOR class IN SELECT opcname FROM pg_opclass JOIN pg_am ON pg_am.oid = opcmethod
    WHERE amname = 'brin' AND NOT EXISTS (SELECT FROM pg_index WHERE pg_opclass.oid = ANY (indclass))
  LOOP RAISE EXCEPTION 'operator class % is not in the workload', class; END LOOP;
END $$;
-- What the sessions share.
CREATE TABLE shared (id int, v text) WITH (fillfactor = 10);
CREATE INDEX shared_v ON shared USING brin (v, id int4_minmax_multi_ops) WITH (pages_per_range = 1, autosummarize = on);
