CREATE EXTENSION ltree;
CREATE TABLE paths AS
    SELECT i AS id, text2ltree('top.a' || i % 10 || '.b' || i % 100 || '.c' || i % 1000 || '.n' || i) AS path
    FROM generate_series(1, 20000) i;
CREATE INDEX ON paths USING gist (path);
CREATE TABLE ordered AS SELECT * FROM paths;
CREATE UNIQUE INDEX ON ordered (path);
CREATE TABLE several AS SELECT id, ARRAY[path, subpath(path, 1)] AS all_paths FROM paths;
CREATE INDEX ON several USING gist (all_paths);
INSERT INTO checks VALUES
    ('below, by gist', 'SELECT id FROM paths WHERE path <@ ''top.a7.b77'''),
    ('a pattern, by gist', 'SELECT id FROM paths WHERE path ~ ''*.c123.*'''),
    ('by btree', 'SELECT id FROM ordered WHERE path BETWEEN ''top.a7'' AND ''top.a7.b17.c117'''),
    ('arrays, by gist', 'SELECT id FROM several WHERE all_paths ~ ''a7.b77.*''');
-- later
UPDATE paths SET path = path || 'moved' WHERE id % 9 = 0;
DELETE FROM paths WHERE id % 7 = 0;
DELETE FROM several WHERE id % 3 = 0;
VACUUM;
INSERT INTO paths SELECT id + 100000, path FROM ordered WHERE id % 5 = 0;
