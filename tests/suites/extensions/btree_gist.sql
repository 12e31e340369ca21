CREATE EXTENSION btree_gist;
CREATE TABLE bookings (room int, at tsrange, guest text, EXCLUDE USING gist (room WITH =, at WITH &&));
INSERT INTO bookings SELECT i % 200, tsrange(timestamp '2020-01-01' + i / 200 * interval '1 hour',
    timestamp '2020-01-01' + (i / 200 + 1) * interval '1 hour'), md5(i::text) FROM generate_series(1, 20000) i;
CREATE TABLE numbers AS SELECT i AS id, i * 7919 % 100003 AS n, md5(i::text) AS word FROM generate_series(1, 20000) i;
CREATE INDEX ON numbers USING gist (n);
CREATE INDEX ON numbers USING gist (word);
INSERT INTO checks VALUES
    ('bookings', 'SELECT guest FROM bookings WHERE room = 7 AND at && tsrange(''2020-01-02'', ''2020-01-03'')'),
    ('near numbers', 'SELECT n FROM numbers ORDER BY n <-> 5000 LIMIT 100'),
    ('words', 'SELECT id FROM numbers WHERE word BETWEEN ''aa'' AND ''ab''');
-- later
DO $$
BEGIN
    INSERT INTO bookings VALUES (7, tsrange('2020-01-02 10:30', '2020-01-02 10:31'), 'nobody');
    RAISE 'the exclusion constraint let a second booking in';
EXCEPTION WHEN exclusion_violation THEN NULL;
END $$;
DELETE FROM bookings WHERE room % 3 = 0;
VACUUM;
INSERT INTO bookings SELECT room + 1000, at, guest FROM bookings;
DELETE FROM numbers WHERE id % 3 = 0;
