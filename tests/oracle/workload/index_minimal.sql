-- setting: wal_level = minimal
-- setting: max_wal_senders = 0
-- setting: wal_skip_threshold = 1GB
-- An index of a relation that its own transaction made is logged whole at the end; until then its pages get LSNs from
-- records that say nothing else, which scans need to notice splits.
SELECT setseed(0.75);
BEGIN; CREATE TABLE points (p point, b box); CREATE INDEX points_p ON points USING gist (p); CREATE INDEX points_b ON points USING gist (b);
INSERT INTO points SELECT point(x, y), box(point(x, y), point(x + 1, y + 1)) FROM (SELECT random() * 100 x, random() * 100 y FROM generate_series(1, 3000)) s;
DELETE FROM points WHERE p[0] < 10; COMMIT;
INSERT INTO points SELECT point(x, y), box(point(x, y), point(x + 1, y + 1)) FROM (SELECT random() * 100 x, random() * 100 y FROM generate_series(1, 2000)) s;
DELETE FROM points WHERE p[0] > 50; CALL oracle.settle(); VACUUM points;
BEGIN; CREATE TABLE hashed (k int); CREATE INDEX hashed_k ON hashed USING hash (k);
INSERT INTO hashed SELECT i % 700 FROM generate_series(1, 3000) i; COMMIT;
INSERT INTO hashed SELECT i % 5 FROM generate_series(1, 2000) i;
DELETE FROM hashed WHERE k % 2 = 0; CALL oracle.settle(); VACUUM hashed;
