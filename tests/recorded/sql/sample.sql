INSERT INTO grown SELECT n % 40, md5(n::text) FROM generate_series(1, 600) n;
DELETE FROM grown WHERE id % 3 = 0;
VACUUM grown;
CREATE INDEX grown_both ON grown (id, name);
