CREATE EXTENSION pg_trgm;
CREATE TABLE by_gin AS SELECT i AS id, md5(i::text) || ' ' || md5((i * 7)::text) AS word FROM generate_series(1, 8000) i;
CREATE INDEX ON by_gin USING gin (word gin_trgm_ops);
CREATE TABLE by_gist AS SELECT * FROM by_gin;
CREATE INDEX ON by_gist USING gist (word gist_trgm_ops (siglen = 32));
INSERT INTO checks VALUES
    ('like, by gin', 'SELECT id FROM by_gin WHERE word LIKE ''%abc1%'''),
    ('similar, by gin', 'SELECT id FROM by_gin WHERE word % (md5(''77'') || '' '' || md5(''539''))'),
    ('a pattern, by gist', 'SELECT id FROM by_gist WHERE word ~ ''c0ff|beef0'''),
    ('near, by gist', 'SELECT word <-> md5(''77'') AS d FROM by_gist ORDER BY word <-> md5(''77'') LIMIT 20');
-- later
UPDATE by_gin SET word = reverse(word) WHERE id % 5 = 0;
DELETE FROM by_gin WHERE id % 7 = 0;
UPDATE by_gist SET word = reverse(word) WHERE id % 5 = 0;
DELETE FROM by_gist WHERE id % 7 = 0;
VACUUM;
INSERT INTO by_gin SELECT id + 100000, word || 'abc123' FROM by_gist WHERE id % 10 = 1;
