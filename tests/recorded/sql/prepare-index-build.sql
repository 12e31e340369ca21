-- Rows for indexes to be built over, and empty indexes to grow.
SELECT setseed(0.5);
CREATE TABLE rows (id bigint, number integer, name text);
INSERT INTO rows SELECT n, (random() * 1000000)::integer, md5(n::text) FROM generate_series(1, 200000) n;
CREATE TABLE grown (id bigint, number integer, name text);
CREATE INDEX grown_id ON grown (id);
CREATE INDEX grown_number ON grown (number);
CREATE INDEX grown_name ON grown (name);
