-- In every database of `make extensions`: queries that must answer the same by index and by scan.
CREATE EXTENSION amcheck;
CREATE TABLE checks (name text PRIMARY KEY, query text NOT NULL);
-- Reading it by its index (a scan keeps to a few buffers) pushes everything else out of 1 MB of buffers.
CREATE TABLE filler AS SELECT i AS id, repeat('x', 500) AS pad FROM generate_series(1, 8000) i;
CREATE INDEX ON filler (id);

CREATE FUNCTION answer(query text, by_index boolean, OUT plan text, OUT answers bigint, OUT sum text)
LANGUAGE plpgsql AS $$
DECLARE
    line text;
    by_scan text := CASE WHEN by_index THEN 'off' ELSE 'on' END;
BEGIN
    PERFORM set_config('enable_seqscan', by_scan, true),
            set_config('enable_indexscan', by_index::text, true),
            set_config('enable_indexonlyscan', by_index::text, true),
            set_config('enable_bitmapscan', by_index::text, true);
    plan := '';
    FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || query LOOP
        plan := plan || line || '; ';
    END LOOP;
    EXECUTE format('SELECT count(*), md5(coalesce(string_agg(t::text, chr(10) ORDER BY t::text COLLATE "C"), ''''))
                    FROM (%s) t', query) INTO answers, sum;
END $$;
