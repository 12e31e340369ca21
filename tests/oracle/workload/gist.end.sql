DELETE FROM shared WHERE n > 10; CALL oracle.settle(); VACUUM shared; SELECT pg_current_xact_id() IS NOT NULL; CALL oracle.settle(); VACUUM shared;
INSERT INTO shared SELECT point(i % 77, i % 13), i FROM generate_series(1, 3000) i;
