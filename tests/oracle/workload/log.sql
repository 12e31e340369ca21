-- Records about the log itself, and those that only pass through it.
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT i, 'v' FROM generate_series(1, 1000) i;
SELECT pg_create_restore_point('before the change') IS NOT NULL;
SELECT pg_switch_wal() IS NOT NULL;
SELECT pg_logical_emit_message(true, 'prefix', 'in a transaction') IS NOT NULL;
SELECT pg_logical_emit_message(false, 'prefix', repeat('long ', 20000)) IS NOT NULL;
-- A base backup: images of pages while it runs, then its end.
SELECT pg_backup_start('a backup', true) IS NOT NULL;
UPDATE t SET v = 'during the backup' WHERE id % 2 = 0;
DO $$ BEGIN PERFORM pg_backup_stop(false); END $$;
UPDATE t SET v = 'after the backup' WHERE id % 3 = 0;
-- Replication origins.
SELECT pg_replication_origin_create('left') > 0, pg_replication_origin_create('right') > 0, pg_replication_origin_create('gone') > 0;
SELECT pg_replication_origin_advance('left', '0/1234');
SELECT pg_replication_origin_advance('gone', '0/99');
SELECT pg_replication_origin_drop('gone');
SELECT pg_replication_origin_session_setup('right');
BEGIN; SELECT pg_replication_origin_xact_setup('2/5678', '2026-01-01 00:00:00+00'); UPDATE t SET v = 'replicated' WHERE id = 1; COMMIT;
BEGIN; SELECT pg_replication_origin_xact_setup('2/5679', '2026-01-01 00:00:01+00'); UPDATE t SET v = 'again' WHERE id = 2; COMMIT;
-- The progress of the origin moves when a transaction from there is prepared, and only then.
BEGIN; SELECT pg_replication_origin_xact_setup('2/5680', '2026-01-01 00:00:02+00'); UPDATE t SET v = 'prepared' WHERE id = 3;
PREPARE TRANSACTION 'replicated'; BEGIN; SELECT pg_replication_origin_xact_setup('2/56A0', '2026-01-01 00:00:03+00');
UPDATE t SET v = 'rolled back' WHERE id = 4; PREPARE TRANSACTION 'replicated, and rolled back';
SELECT pg_replication_origin_session_reset();
COMMIT PREPARED 'replicated'; ROLLBACK PREPARED 'replicated, and rolled back';
-- Backwards, too: the origin is set, not advanced.
SELECT pg_replication_origin_advance('left', '0/1000');
SELECT pg_replication_origin_progress('left', true), pg_replication_origin_progress('right', true);
-- Object identifiers: the log is ahead by 8192 of them.
SELECT count(lo_create(0)) FROM generate_series(1, 9000);
SELECT count(lo_unlink(oid)) FROM pg_largeobject_metadata;
CHECKPOINT;
SELECT count(*), count(DISTINCT v) FROM t;
