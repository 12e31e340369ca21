CREATE EXTENSION hstore;
CREATE TABLE by_gin AS
    SELECT i AS id, hstore(ARRAY['a', (i % 100)::text, 'k' || i % 1000, md5(i::text)]) AS pairs
    FROM generate_series(1, 20000) i;
CREATE INDEX ON by_gin USING gin (pairs);
CREATE TABLE by_gist AS SELECT * FROM by_gin;
CREATE INDEX ON by_gist USING gist (pairs);
INSERT INTO checks VALUES
    ('contains, by gin', 'SELECT id FROM by_gin WHERE pairs @> ''a=>7'''),
    ('has a key, by gin', 'SELECT id FROM by_gin WHERE pairs ? ''k77'''),
    ('has a key, by gist', 'SELECT id FROM by_gist WHERE pairs ? ''k77''');
-- later
UPDATE by_gin SET pairs = pairs || 'new=>1' WHERE id % 9 = 0;
DELETE FROM by_gist WHERE id % 3 = 0;
VACUUM;
INSERT INTO by_gist SELECT id + 100000, pairs || 'k77=>x' FROM by_gin WHERE id % 50 = 0;
