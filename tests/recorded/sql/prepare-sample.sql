-- pgbench's tables with few rows, and a table that grows under two indexes.
CREATE TABLE branches (bid integer PRIMARY KEY, bbalance integer, filler char(88));
CREATE TABLE tellers (tid integer PRIMARY KEY, bid integer, tbalance integer, filler char(84));
CREATE TABLE accounts (aid integer PRIMARY KEY, bid integer, abalance integer, filler char(84));
CREATE TABLE history (tid integer, bid integer, aid integer, delta integer, mtime timestamp, filler char(22));
INSERT INTO branches VALUES (1, 0, '');
INSERT INTO tellers SELECT n, 1, 0, '' FROM generate_series(1, 10) n;
INSERT INTO accounts SELECT n, 1, 0, '' FROM generate_series(1, 600) n;
CREATE TABLE grown (id integer, name text);
CREATE INDEX grown_id ON grown (id);
CREATE INDEX grown_name ON grown (name);
