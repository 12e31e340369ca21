CREATE INDEX arrays_values ON arrays USING gin (values);
INSERT INTO grown SELECT id, values FROM arrays ORDER BY md5(id::text);
DELETE FROM grown WHERE id % 3 = 0;
VACUUM grown;
INSERT INTO grown SELECT id, values FROM arrays WHERE id % 3 = 0;
VACUUM grown;
