SELECT oracle.await('cursor');
DELETE FROM held WHERE n % 3 = 0;
INSERT INTO held SELECT i, i FROM generate_series(5000, 6500) i;
VACUUM held;
-- Waits for the cursor's end.
BEGIN; LOCK TABLE held; INSERT INTO held SELECT i, i FROM generate_series(6501, 7000) i; COMMIT;
