CREATE INDEX rows_id ON rows (id);
CREATE INDEX rows_number ON rows (number);
CREATE INDEX rows_name ON rows (name);
-- Splits, and equal keys, which become posting lists.
INSERT INTO grown SELECT id, number % 500, name FROM rows ORDER BY name LIMIT 100000;
DELETE FROM grown WHERE id % 3 = 0;
VACUUM grown;
INSERT INTO grown SELECT id, number % 500, name FROM rows ORDER BY number LIMIT 50000;
