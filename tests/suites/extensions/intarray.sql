CREATE EXTENSION intarray;
CREATE TABLE by_gin AS SELECT i AS id, ARRAY[i % 100, i % 777, i] AS numbers FROM generate_series(1, 20000) i;
CREATE INDEX ON by_gin USING gin (numbers gin__int_ops);
CREATE TABLE by_gist AS SELECT * FROM by_gin;
CREATE INDEX ON by_gist USING gist (numbers gist__intbig_ops);
INSERT INTO checks VALUES
    ('a query, by gin', 'SELECT id FROM by_gin WHERE numbers @@ ''7 & 707'''),
    ('overlap, by gin', 'SELECT id FROM by_gin WHERE numbers && ARRAY[77, 19999]'),
    ('contains, by gist', 'SELECT id FROM by_gist WHERE numbers @> ARRAY[7]');
-- later
UPDATE by_gin SET numbers = numbers + 7 WHERE id % 9 = 0;
DELETE FROM by_gist WHERE id % 3 = 0;
VACUUM;
INSERT INTO by_gist SELECT id + 100000, numbers FROM by_gin WHERE id % 5 = 0;
