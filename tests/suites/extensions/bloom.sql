CREATE EXTENSION bloom;
CREATE TABLE facts AS
    SELECT i AS id, i % 100 AS a, i * 7919 % 1000 AS b, md5((i % 500)::text) AS c FROM generate_series(1, 60000) i;
CREATE INDEX ON facts USING bloom (a, b, c) WITH (length = 80, col1 = 2, col2 = 2, col3 = 4);
INSERT INTO checks VALUES
    ('two columns', 'SELECT id FROM facts WHERE a = 7 AND b = 33'),
    ('the third column', 'SELECT id FROM facts WHERE c = md5(''77'')');
-- later
DELETE FROM facts WHERE id % 3 = 0;
VACUUM facts;
INSERT INTO facts SELECT id + 100000, a, b, c FROM facts WHERE id % 5 = 0;
UPDATE facts SET a = 7 WHERE id % 1000 = 1;
