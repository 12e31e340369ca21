-- Arrays of few and of many values, so that entries have posting lists and posting trees.
CREATE TABLE arrays (id bigint, values integer[]);
INSERT INTO arrays SELECT n, ARRAY[n % 10, n % 1000, n] FROM generate_series(1, 50000) n;
CREATE TABLE grown (id bigint, values integer[]);
CREATE INDEX grown_at_once ON grown USING gin (values) WITH (fastupdate = off);
CREATE INDEX grown_later ON grown USING gin (values) WITH (fastupdate = on, gin_pending_list_limit = 256);
