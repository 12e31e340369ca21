CALL oracle.settle(); VACUUM shared;
INSERT INTO shared SELECT i % 50, i FROM generate_series(1, 2000) i;
VACUUM held;
DELETE FROM held WHERE n % 2 = 0; CALL oracle.settle(); VACUUM held;
INSERT INTO held SELECT i, i FROM generate_series(7001, 9000) i;
