CREATE EXTENSION pg_stat_statements;
CREATE TABLE counted AS SELECT i AS id FROM generate_series(1, 1000) i;
CREATE INDEX ON counted (id);
SELECT count(*) FROM counted WHERE id < 10;
SELECT count(*) FROM counted WHERE id < 20;
DO $$
BEGIN
    IF (SELECT calls FROM pg_stat_statements WHERE query LIKE 'SELECT count(*) FROM counted WHERE id < $1') IS DISTINCT FROM 2 THEN
        RAISE 'statements are not counted';
    END IF;
END $$;
INSERT INTO checks VALUES ('counted rows', 'SELECT id FROM counted WHERE id = 77');
-- later
SELECT count(*) FROM counted WHERE id < 30;
DO $$
BEGIN
    IF (SELECT calls FROM pg_stat_statements WHERE query LIKE 'SELECT count(*) FROM counted WHERE id < $1') IS DISTINCT FROM 1 THEN
        RAISE 'after a restart statements are not counted anew';
    END IF;
END $$;
