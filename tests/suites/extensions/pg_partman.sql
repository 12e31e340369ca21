CREATE SCHEMA partman;
CREATE EXTENSION pg_partman SCHEMA partman;
CREATE TABLE events (id bigint PRIMARY KEY, word text) PARTITION BY RANGE (id);
CREATE INDEX ON events (word);
SELECT partman.create_parent('public.events', 'id', 'native', '5000', p_premake := 4);
INSERT INTO events SELECT i, md5(i::text) FROM generate_series(1, 20000) i;
SELECT partman.run_maintenance('public.events');
INSERT INTO events SELECT i, md5(i::text) FROM generate_series(20001, 30000) i;
INSERT INTO checks VALUES
    ('one partition', 'SELECT word FROM events WHERE id BETWEEN 7000 AND 7100'),
    ('all partitions', 'SELECT id FROM events WHERE word = md5(''23456'')');
-- later
CALL partman.run_maintenance_proc();
INSERT INTO events SELECT i, md5(i::text) FROM generate_series(30001, 40000) i;
UPDATE partman.part_config SET retention = '15000', retention_keep_table = false WHERE parent_table = 'public.events';
SELECT partman.run_maintenance('public.events');
INSERT INTO checks VALUES ('what retention keeps', 'SELECT min(id), count(*) FROM events');
DO $$
BEGIN
    IF (SELECT count(*) FROM events_default) <> 0 OR (SELECT min(id) FROM events) < 20000 THEN
        RAISE 'maintenance made no partitions, or dropped none: % in the default, from %',
            (SELECT count(*) FROM events_default), (SELECT min(id) FROM events);
    END IF;
END $$;
