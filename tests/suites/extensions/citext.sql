CREATE EXTENSION citext;
CREATE TABLE names (id int, name citext PRIMARY KEY);
INSERT INTO names SELECT i, CASE WHEN i % 2 = 0 THEN upper(md5(i::text)) ELSE md5(i::text) END FROM generate_series(1, 30000) i;
CREATE TABLE hashed AS SELECT * FROM names;
CREATE INDEX ON hashed USING hash (name);
INSERT INTO checks VALUES
    ('by btree', 'SELECT id FROM names WHERE name = upper(md5(''77''))::citext'),
    ('a range', 'SELECT id FROM names WHERE name BETWEEN ''AB''::citext AND ''ac''::citext'),
    ('by hash', 'SELECT id FROM hashed WHERE name IN (md5(''4711'')::citext, upper(md5(''77''))::citext)');
-- later
DO $$
BEGIN
    INSERT INTO names VALUES (0, upper(md5('77')));
    RAISE 'the unique index let a second name in';
EXCEPTION WHEN unique_violation THEN NULL;
END $$;
DELETE FROM names WHERE id % 3 = 0;
VACUUM;
INSERT INTO names SELECT id, name || 'x' FROM names;
