CREATE EXTENSION btree_gin;
CREATE TABLE facts AS
    SELECT i AS id, i % 1000 AS n, md5((i % 700)::text) AS word, timestamp '2020-01-01' + i * interval '1 minute' AS at
    FROM generate_series(1, 40000) i;
CREATE INDEX ON facts USING gin (n, word);
CREATE INDEX ON facts USING gin (at);
INSERT INTO checks VALUES
    ('two columns', 'SELECT id FROM facts WHERE n = 77 AND word = md5(''177'')'),
    ('one of two columns', 'SELECT id FROM facts WHERE word = md5(''177'')'),
    ('a time', 'SELECT id FROM facts WHERE at BETWEEN ''2020-01-02'' AND ''2020-01-02 01:00''');
-- later
DELETE FROM facts WHERE id % 3 = 0;
VACUUM facts;
INSERT INTO facts SELECT id + 100000, n, word, at FROM facts WHERE id % 5 = 0;
