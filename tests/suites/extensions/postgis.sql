CREATE EXTENSION postgis;
CREATE EXTENSION postgis_topology;
CREATE TABLE places AS
    SELECT i AS id, ST_SetSRID(ST_MakePoint(i * 7919 % 36000 / 100.0 - 180, i * 104729 % 17000 / 100.0 - 85), 4326) AS place
    FROM generate_series(1, 20000::bigint) i;
CREATE INDEX ON places USING gist (place);
CREATE TABLE quadrants AS SELECT * FROM places;
CREATE INDEX ON quadrants USING spgist (place);
CREATE TABLE strips AS SELECT * FROM places ORDER BY ST_X(place);
CREATE INDEX ON strips USING brin (place) WITH (pages_per_range = 4);
CREATE TABLE areas AS SELECT id, ST_Buffer(place, 0.5, 8) AS area FROM places WHERE id % 5 = 0;
CREATE INDEX ON areas USING gist (area);
CREATE INDEX ON areas USING gist (area gist_geometry_ops_nd);
CREATE TABLE on_earth AS SELECT id, place::geography AS place FROM places WHERE id % 2 = 0;
CREATE INDEX ON on_earth USING gist (place);
SELECT topology.CreateTopology('streets', 4326);
INSERT INTO checks VALUES
    ('within a box, by gist', 'SELECT id FROM places WHERE place && ST_MakeEnvelope(0, 0, 20, 20, 4326)'),
    ('near, by gist', 'SELECT ST_Distance(place, ST_Point(1, 1, 4326)) FROM places ORDER BY place <-> ST_Point(1, 1, 4326) LIMIT 40'),
    ('within a box, by spgist', 'SELECT id FROM quadrants WHERE place && ST_MakeEnvelope(0, 0, 20, 20, 4326)'),
    ('within a box, by brin', 'SELECT id FROM strips WHERE place && ST_MakeEnvelope(0, 0, 20, 20, 4326)'),
    ('areas that meet', 'SELECT id FROM areas WHERE ST_Intersects(area, ST_MakeEnvelope(0, 0, 20, 20, 4326))'),
    ('areas in n dimensions', 'SELECT id FROM areas WHERE area &&& ST_MakeEnvelope(0, 0, 20, 20, 4326)'),
    ('places and areas', 'SELECT p.id, a.id AS area FROM places p JOIN areas a ON ST_Contains(a.area, p.place) WHERE p.id < 300'),
    ('on earth', 'SELECT id FROM on_earth WHERE ST_DWithin(place, ST_Point(8, 50)::geography, 500000)'),
    ('a projection', 'SELECT id, ST_AsText(ST_Transform(place, 3857), 3) FROM places WHERE place && ST_MakeEnvelope(0, 0, 2, 2, 4326)');
-- later
UPDATE places SET place = ST_Translate(place, 1, 1) WHERE id % 5 = 0;
DELETE FROM places WHERE id % 7 = 0;
DELETE FROM quadrants WHERE id % 3 = 0;
DELETE FROM areas WHERE id % 3 = 0;
DELETE FROM strips WHERE id % 3 = 0;
VACUUM;
INSERT INTO quadrants SELECT id + 100000, place FROM places WHERE id % 5 = 0;
INSERT INTO strips SELECT id + 100000, place FROM places WHERE id % 5 = 0;
INSERT INTO areas SELECT id + 100000, ST_Buffer(place, 0.25, 4) FROM places WHERE id % 9 = 0;
INSERT INTO on_earth SELECT id + 100000, place::geography FROM places WHERE id % 9 = 0;
