-- Every index kind that PostgreSQL has by itself.
CREATE TABLE documents AS
    SELECT i AS id, to_tsvector('simple', md5(i::text) || ' w' || i % 100 || ' v' || i % 1000) AS words,
           jsonb_build_object('n', i % 500, 'tags', jsonb_build_array('t' || i % 50, 'u' || i % 333)) AS body,
           ARRAY[i % 100, i % 1000, i] AS numbers
    FROM generate_series(1, 20000) i;
CREATE INDEX ON documents USING gin (words);
CREATE INDEX ON documents USING gin (body jsonb_path_ops);
CREATE INDEX ON documents USING gin (numbers) WITH (fastupdate = off);
CREATE TABLE signatures AS SELECT id, words FROM documents WHERE id <= 10000;
CREATE INDEX ON signatures USING gist (words);
CREATE TABLE shapes AS
    SELECT i AS id, point(i * 7919 % 10007, i * 104729 % 9973) AS spot,
           int4range((i * 31 % 50000)::int, (i * 31 % 50000 + i % 90 + 1)::int) AS span,
           inet '10.0.0.0' + (i * 2654435761 % 16777216)::bigint AS address, md5(i::text) AS word
    FROM generate_series(1, 20000::bigint) i;
CREATE INDEX ON shapes USING gist (spot);
CREATE INDEX ON shapes USING gist (span);
CREATE TABLE trees AS SELECT * FROM shapes;
CREATE INDEX ON trees USING spgist (spot);
CREATE INDEX ON trees USING spgist (span);
CREATE INDEX ON trees USING spgist (address);
CREATE INDEX ON trees USING spgist (word);
CREATE TABLE hashed AS SELECT id, word FROM shapes;
CREATE INDEX ON hashed USING hash (word);
CREATE INDEX ON hashed USING hash (id);
CREATE TABLE long AS SELECT i AS id, i / 7 AS n, md5(i::text) AS word FROM generate_series(1, 100000) i;
CREATE INDEX ON long USING brin (id) WITH (pages_per_range = 4);
CREATE INDEX ON long USING brin (n int4_minmax_multi_ops) WITH (pages_per_range = 4, autosummarize = on);
CREATE INDEX ON long USING brin (word text_bloom_ops) WITH (pages_per_range = 8);
INSERT INTO checks VALUES
    ('words by gin', 'SELECT id FROM documents WHERE words @@ ''w7 & v107''::tsquery'),
    ('a prefix by gin', 'SELECT id FROM documents WHERE words @@ ''w7:* & !v107''::tsquery'),
    ('json by gin', 'SELECT id FROM documents WHERE body @> ''{"tags": ["t3"]}'''),
    ('arrays by gin', 'SELECT id FROM documents WHERE numbers @> ARRAY[7, 107]'),
    ('words by gist', 'SELECT id FROM signatures WHERE words @@ ''w7 & v107''::tsquery'),
    ('points by gist', 'SELECT id FROM shapes WHERE spot <@ box ''(1000,1000),(2000,2000)'''),
    ('near points by gist', 'SELECT spot <-> point ''(5,5)'' FROM shapes ORDER BY spot <-> point ''(5,5)'' LIMIT 50'),
    ('ranges by gist', 'SELECT id FROM shapes WHERE span && int4range(100, 300)'),
    ('points by spgist', 'SELECT id FROM trees WHERE spot <@ box ''(1000,1000),(2000,2000)'''),
    ('near points by spgist', 'SELECT spot <-> point ''(5,5)'' FROM trees ORDER BY spot <-> point ''(5,5)'' LIMIT 50'),
    ('ranges by spgist', 'SELECT id FROM trees WHERE span @> 4711'),
    ('addresses by spgist', 'SELECT id FROM trees WHERE address << inet ''10.16.0.0/14'''),
    ('words by spgist', 'SELECT id FROM trees WHERE word ^@ ''ab'''),
    ('words by hash', 'SELECT id FROM hashed WHERE word IN (md5(''1''), md5(''777''), md5(''20000''), ''no'')'),
    ('numbers by hash', 'SELECT word FROM hashed WHERE id = 4711'),
    ('numbers by brin', 'SELECT word FROM long WHERE id BETWEEN 4000 AND 6000'),
    ('numbers by brin, several ranges', 'SELECT id FROM long WHERE n = 4711'),
    ('words by brin, a bloom filter', 'SELECT id FROM long WHERE word = md5(''90909'')');
-- later
INSERT INTO documents SELECT id + 20000, words, body, numbers || id FROM documents WHERE id % 4 = 0;
DELETE FROM documents WHERE id % 3 = 0;
INSERT INTO signatures SELECT id, words FROM documents WHERE 20000 < id;
DELETE FROM signatures WHERE id % 3 = 0;
UPDATE shapes SET spot = spot + point '(100,50)', span = int4range(upper(span), upper(span) + 10) WHERE id % 5 = 0;
DELETE FROM shapes WHERE id % 7 = 0;
UPDATE trees SET spot = spot + point '(100,50)', span = int4range(upper(span), upper(span) + 10), word = word || 'x'
    WHERE id % 5 = 0;
DELETE FROM trees WHERE id % 7 = 0;
INSERT INTO hashed SELECT id + 20000, md5(id::text || 'x') FROM hashed;
DELETE FROM hashed WHERE id % 3 = 0;
DELETE FROM long WHERE id BETWEEN 4500 AND 20000;
INSERT INTO long SELECT i, i / 7, md5(i::text) FROM generate_series(4500, 30000, 3) i;
VACUUM;
INSERT INTO shapes SELECT id + 100000, spot, span, address, word FROM trees;
INSERT INTO hashed SELECT id + 100000, word FROM trees;
