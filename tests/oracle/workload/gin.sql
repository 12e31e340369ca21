-- GIN: entry trees and posting trees, the pending list, and every operator class of PostgreSQL and its contrib modules.
CREATE EXTENSION btree_gin; CREATE EXTENSION hstore; CREATE EXTENSION intarray; CREATE EXTENSION pg_trgm;
-- The entry tree grows by long keys: leaves, inner pages and the root split, and splits are completed one level up.
CREATE TABLE entries (keys text[]) WITH (autovacuum_enabled = off);
ALTER TABLE entries ALTER keys SET STORAGE EXTERNAL;
CREATE INDEX entries_keys ON entries USING gin (keys) WITH (fastupdate = off);
INSERT INTO entries SELECT ARRAY[(SELECT string_agg(md5(i * 7919 % 1000 || '-' || part), '') FROM generate_series(1, 1 + i % 80) part)]
  FROM generate_series(1, 1000) i;
INSERT INTO entries SELECT ARRAY[md5((i * 31 % 400)::text), 'common', NULL, 'a' || i % 7] FROM generate_series(1, 1500) i;
INSERT INTO entries VALUES (NULL), ('{}'), ('{NULL}'), ('{NULL,NULL}'), (NULL);
-- Tuples whose posting lists shrink to nothing stay, as keys: their pages are rewritten.
DELETE FROM entries WHERE keys[1] LIKE '%a%' OR keys IS NULL; CALL oracle.settle(); VACUUM entries;
INSERT INTO entries SELECT ARRAY['common', 'later' || i] FROM generate_series(1, 300) i;
DELETE FROM entries; CALL oracle.settle(); VACUUM entries;
INSERT INTO entries SELECT ARRAY['common', 'latest' || i] FROM generate_series(1, 100) i;
-- Posting lists that outgrow their tuples become trees, whose leaves split and whose roots get children.
CREATE TABLE postings (id int, keys int[], filler text) WITH (autovacuum_enabled = off);
CREATE INDEX postings_keys ON postings USING gin (keys) WITH (fastupdate = off);
INSERT INTO postings SELECT i, ARRAY[0, 1 + i % 3, 10 + i % 11] FROM generate_series(1, 40000) i;
-- Empty leaves between others are deleted, the others lose segments, parts of segments, and change them.
DELETE FROM postings WHERE id BETWEEN 4000 AND 33000; CALL oracle.settle(); VACUUM postings;
DELETE FROM postings WHERE id % 5 = 0; CALL oracle.settle(); VACUUM postings;
-- Tuple ids that were freed come back in between those that are left; deleted pages are used again.
INSERT INTO postings SELECT i, ARRAY[0, i % 4, 10 + i % 13], CASE WHEN i % 3 = 0 THEN repeat('f', i % 700) END
  FROM generate_series(40001, 60000) i;
DELETE FROM postings WHERE id % 7 <> 0; CALL oracle.settle(); VACUUM postings;
INSERT INTO postings SELECT i, ARRAY[0, 1, 99] FROM generate_series(60001, 64000) i;
UPDATE postings SET keys = keys || 77 WHERE id % 3 = 0;
DELETE FROM postings; CALL oracle.settle(); VACUUM postings;
INSERT INTO postings SELECT i, ARRAY[0, 1] FROM generate_series(1, 4000) i;
-- Rows that come one by one far apart: whole segments come to be between others.
CREATE TABLE sparse (id int, keys int[], filler text) WITH (autovacuum_enabled = off, fillfactor = 100);
INSERT INTO sparse SELECT i, CASE WHEN i % 2 = 0 THEN ARRAY[0] ELSE ARRAY[1] END FROM generate_series(1, 60000) i;
CREATE INDEX sparse_keys ON sparse USING gin (keys) WITH (fastupdate = off);
DELETE FROM sparse WHERE id % 17 < 6 OR id BETWEEN 20000 AND 22000; CALL oracle.settle(); VACUUM sparse;
INSERT INTO sparse SELECT i, ARRAY[0, 1] FROM generate_series(1, 15000) i;
-- The pending list: rows on its last page, lists of pages for rows that are longer than one, both onto a list that is
-- there and onto none; its end by hand, by vacuum and by its limit.
CREATE TABLE pending (id int, doc tsvector, keys text[]) WITH (autovacuum_enabled = off);
CREATE INDEX pending_doc ON pending USING gin (doc) WITH (fastupdate = on, gin_pending_list_limit = 4096);
CREATE INDEX pending_keys ON pending USING gin (keys, id) WITH (fastupdate = on, gin_pending_list_limit = 64);
CREATE FUNCTION long_document(seed int, words int) RETURNS tsvector LANGUAGE sql AS $$
  SELECT to_tsvector('simple', string_agg('word' || (i * 7919 + seed) % 5000, ' ')) FROM generate_series(1, words) i $$;
INSERT INTO pending SELECT i, to_tsvector('simple', 'one two word' || i), ARRAY['k' || i % 50, NULL] FROM generate_series(1, 300) i;
INSERT INTO pending SELECT i, long_document(i, 900), ARRAY[repeat('long', i)] FROM generate_series(301, 310) i;
INSERT INTO pending SELECT i, to_tsvector('simple', 'three'), '{}' FROM generate_series(311, 600) i;
SELECT 0 < gin_clean_pending_list('pending_doc'); SELECT gin_clean_pending_list('pending_doc') = 0;
INSERT INTO pending SELECT i, long_document(i, 2500), ARRAY['x'] FROM generate_series(601, 640) i;
INSERT INTO pending VALUES (641, NULL, NULL), (642, '', '{NULL}');
DELETE FROM pending WHERE id % 3 = 0; CALL oracle.settle(); VACUUM pending;
INSERT INTO pending SELECT i, long_document(i, 60), ARRAY['x', 'y' || i] FROM generate_series(1001, 1800) i;
ALTER INDEX pending_doc SET (fastupdate = off);
INSERT INTO pending SELECT i, long_document(i, 20), ARRAY['z'] FROM generate_series(2001, 2100) i;
VACUUM pending; SELECT gin_clean_pending_list('pending_keys') >= 0;
-- Builds, also of what is unlogged at first, of little memory, and beside writers.
SET maintenance_work_mem = '1MB';
CREATE INDEX CONCURRENTLY pending_both ON pending USING gin (doc, keys); REINDEX INDEX CONCURRENTLY pending_keys;
RESET maintenance_work_mem;
CREATE UNLOGGED TABLE unlogged (keys int[]); CREATE INDEX ON unlogged USING gin (keys);
INSERT INTO unlogged SELECT ARRAY[i % 5, i] FROM generate_series(1, 500) i; ALTER TABLE unlogged SET LOGGED;
INSERT INTO unlogged SELECT ARRAY[i % 5, i] FROM generate_series(1, 500) i; VACUUM unlogged;
-- Every operator class: those of btree_gin by an expression for each type, the others by one for each class.
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE expressions (class text PRIMARY KEY, type text, value text);
INSERT INTO expressions VALUES
  ('array_ops', 'int[]', 'ARRAY[i, i % 5]'), ('array_ops', 'text[]', 'ARRAY[md5(i::text), ''same'']') ON CONFLICT DO NOTHING;
INSERT INTO expressions VALUES
  ('tsvector_ops', 'tsvector', 'to_tsvector(''simple'', ''a b'' || i)'),
  ('jsonb_ops', 'jsonb', 'jsonb_build_object(''a'', i, ''b'', jsonb_build_array(i % 3, md5(i::text), NULL, true))'),
  ('jsonb_path_ops', 'jsonb', 'jsonb_build_object(''a'', i, ''b'', jsonb_build_object(''c'', i % 4))'),
  ('gin_trgm_ops', 'text', 'md5(i::text)'), ('gin_hstore_ops', 'hstore', 'hstore(''k'' || i % 9, i::text)'),
  ('gin__int_ops', 'int[]', 'ARRAY[i, i % 5]'), ('int2_ops', 'int2', 'i'), ('int4_ops', 'int4', 'i'), ('int8_ops', 'int8', 'i'),
  ('float4_ops', 'float4', 'i / 3.0'), ('float8_ops', 'float8', 'i / 3.0'), ('money_ops', 'money', 'i::money'),
  ('oid_ops', 'oid', 'i'), ('timestamp_ops', 'timestamp', 'timestamp ''2020-01-01'' + i * interval ''1 hour'''),
  ('timestamptz_ops', 'timestamptz', 'timestamptz ''2020-01-01'' + i * interval ''1 hour'''),
  ('time_ops', 'time', 'time ''00:00'' + i * interval ''1 s'''), ('timetz_ops', 'timetz', 'timetz ''00:00+1'' + i * interval ''1 s'''),
  ('date_ops', 'date', 'date ''2020-01-01'' + i'), ('interval_ops', 'interval', 'i * interval ''1 min'''),
  ('macaddr_ops', 'macaddr', 'lpad(to_hex(i), 12, ''0'')::macaddr'), ('macaddr8_ops', 'macaddr8', 'lpad(to_hex(i), 16, ''0'')::macaddr8'),
  ('inet_ops', 'inet', 'inet ''10.0.0.0'' + i'), ('cidr_ops', 'cidr', 'set_masklen((inet ''10.0.0.0'' + i)::cidr, 32)'),
  ('text_ops', 'text', 'md5(i::text)'), ('varchar_ops', 'varchar', 'md5(i::text)'), ('bpchar_ops', 'char(40)', 'md5(i::text)'),
  ('char_ops', '"char"', 'chr(33 + i % 90)::"char"'), ('bytea_ops', 'bytea', 'decode(md5(i::text), ''hex'')'),
  ('bit_ops', 'bit(32)', 'i::bit(32)'), ('varbit_ops', 'varbit', 'i::bit(32)::varbit'), ('numeric_ops', 'numeric', 'i * 1.7'),
  ('enum_ops', 'mood', '(enum_range(NULL::mood))[1 + i % 3]'), ('uuid_ops', 'uuid', 'md5(i::text)::uuid'), ('name_ops', 'name', 'md5(i::text)'),
  ('bool_ops', 'bool', 'i % 2 = 0');
DO $$ DECLARE each expressions; is_fast bool;
BEGIN
  FOR each IN SELECT * FROM expressions LOOP FOREACH is_fast IN ARRAY ARRAY[true, false] LOOP
    EXECUTE format('CREATE TABLE %I (v %s)', each.class || is_fast, each.type);
    EXECUTE format('CREATE INDEX ON %I USING gin (v %I) WITH (fastupdate = %s)', each.class || is_fast, each.class, is_fast);
    EXECUTE format('INSERT INTO %I SELECT %s FROM generate_series(1, 300) i', each.class || is_fast, each.value);
    EXECUTE format('INSERT INTO %I VALUES (NULL)', each.class || is_fast);
    EXECUTE format('DELETE FROM %I WHERE ctid < ''(0,40)''', each.class || is_fast);
  END LOOP; END LOOP;
END $$;
CALL oracle.settle(); VACUUM;
DO $$ DECLARE class text;
BEGIN
  FOR class IN SELECT opcname FROM pg_opclass JOIN pg_am ON pg_am.oid = opcmethod
    WHERE amname = 'gin' AND NOT EXISTS (SELECT FROM pg_index WHERE pg_opclass.oid = ANY (indclass))
  LOOP RAISE EXCEPTION 'operator class % is not in the workload', class; END LOOP;
END $$;
-- What the sessions share.
CREATE TABLE shared (id int, keys int[]); CREATE INDEX shared_fast ON shared USING gin (keys) WITH (gin_pending_list_limit = 64);
CREATE INDEX shared_slow ON shared USING gin (keys) WITH (fastupdate = off);
