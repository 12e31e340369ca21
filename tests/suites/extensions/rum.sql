CREATE EXTENSION rum;
CREATE TABLE documents AS
    SELECT i AS id, to_tsvector('simple', md5(i::text) || ' w' || i % 100 || ' v' || i % 1000 || ' w' || i % 100) AS words,
           timestamp '2020-01-01' + i * interval '1 minute' AS at
    FROM generate_series(1, 20000) i;
CREATE INDEX ON documents USING rum (words rum_tsvector_ops);
CREATE TABLE dated AS SELECT * FROM documents;
CREATE INDEX ON dated USING rum (words rum_tsvector_addon_ops, at) WITH (attach = 'at', to = 'words');
CREATE TABLE lists AS SELECT i AS id, ARRAY[i % 100, i % 777] AS numbers FROM generate_series(1, 20000) i;
CREATE INDEX ON lists USING rum (numbers rum_anyarray_ops);
INSERT INTO checks VALUES
    ('words', 'SELECT id FROM documents WHERE words @@ ''w7 & v107''::tsquery'),
    ('a phrase', 'SELECT id FROM documents WHERE words @@ ''w7 <-> v107''::tsquery'),
    ('a prefix', 'SELECT id FROM documents WHERE words @@ ''v10:*''::tsquery'),
    ('words with a date', 'SELECT id FROM dated WHERE words @@ ''w7 & v107''::tsquery'),
    ('dates', 'SELECT at <=> timestamp ''2020-01-05'' FROM dated WHERE words @@ ''w7''::tsquery
        ORDER BY at <=> timestamp ''2020-01-05'' LIMIT 30'),
    ('arrays', 'SELECT id FROM lists WHERE numbers @> ARRAY[7]');
-- later
DELETE FROM documents WHERE id % 3 = 0;
DELETE FROM dated WHERE id % 3 = 0;
UPDATE lists SET numbers = numbers || 7 WHERE id % 9 = 0;
VACUUM;
INSERT INTO documents SELECT id + 100000, words, at FROM documents WHERE id % 5 = 0;
INSERT INTO dated SELECT * FROM documents WHERE 100000 < id;
