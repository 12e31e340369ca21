-- Sessions that meet on the same rows and pages.
CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL, v text) WITH (fillfactor = 50);
INSERT INTO counters SELECT i, 0, repeat('c', 30) FROM generate_series(1, 400) i;
CREATE TABLE parents (id int PRIMARY KEY, v int); INSERT INTO parents SELECT i, 0 FROM generate_series(1, 50) i;
CREATE TABLE children (id bigserial PRIMARY KEY, parent int REFERENCES parents, v text);
CREATE INDEX ON children (parent);
CREATE TABLE keyed (k int PRIMARY KEY, v text);
CREATE TABLE queue (id int PRIMARY KEY, taken text); INSERT INTO queue SELECT i FROM generate_series(1, 300) i;
VACUUM (FREEZE) counters; VACUUM (FREEZE) parents;
