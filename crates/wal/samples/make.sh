#!/usr/bin/env bash
# Makes the golden samples beside this script: real log written by PostgreSQL 15, and what pg_waldump says of it.
#
#   workload.wal   WAL files of 1 MiB, one after the other, cut after the last record
#   workload.txt   what pg_waldump says of every record of it: kind, length, transaction, position, previous, blocks
#
# Run as a user who may start PostgreSQL (not root): samples/make.sh OUTPUT-DIRECTORY [PORT]
set -euo pipefail
# shellcheck source=names.sh
source "$(dirname "$0")/names.sh"
out=$1
port=${2:-5461}
bin=${PGBIN:-/usr/lib/postgresql/15/bin}
work=$(mktemp -d)
data=$work/data
trap '"$bin/pg_ctl" -D "$data" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

"$bin/initdb" -D "$data" --wal-segsize=1 --no-sync --auth=trust >/dev/null
cat >> "$data/postgresql.conf" <<CONF
port = $port
unix_socket_directories = '$work'
listen_addresses = ''
wal_level = logical
track_commit_timestamp = on
max_prepared_transactions = 5
wal_compression = lz4
wal_keep_size = 200MB
allow_in_place_tablespaces = on
autovacuum = off
checkpoint_timeout = 1h
fsync = off
CONF
start() { "$bin/pg_ctl" -D "$data" -w -l "$work/log" "$@" start >/dev/null; }
stop() { "$bin/pg_ctl" -D "$data" -m fast -w stop >/dev/null; }
sql() { "$bin/psql" -h "$work" -p "$port" -d "${database:-postgres}" -X -q -v ON_ERROR_STOP=1 -At "$@"; }

start
sql -c "select pg_create_logical_replication_slot('s', 'test_decoding')" >/dev/null
first=$(sql -c "checkpoint" -c "select pg_switch_wal()" -c "select pg_walfile_name(pg_current_wal_insert_lsn())" | tail -1)
sql >/dev/null <<'SQL'
create table t (id int primary key, a text, p point);
insert into t select n, 'row ' || n, point(n, n) from generate_series(1, 1) n;
insert into t select n, 'row ' || n, point(n, n) from generate_series(2, 260) n;
vacuum (freeze) t;
update t set a = 'changed' where id % 20 = 0;
update t set id = id + 1000 where id = 5;
delete from t where id between 30 and 60;
select count(*) from (select * from t where id = 70 for update) x;
vacuum t;
-- multixacts: a lock of the transaction, an update of its subtransaction
begin;
select count(*) from (select * from t where id = 71 for share) x;
savepoint a;
update t set a = 'multi' where id = 71;
commit;
begin;
select count(*) from (select * from t where id between 80 and 90 for key share) x;
prepare transaction 'locker';
begin;
select count(*) from (select * from t where id between 80 and 90 for key share) x;
commit;
rollback prepared 'locker';
begin;
insert into t values (5000, 'prepared', null);
savepoint a;
insert into t values (5001, 'prepared', null);
create table dropped_on_abort (x int);
prepare transaction 'p';
commit prepared 'p';
begin; create table gone (x int); insert into gone values (1); rollback;
-- more subtransactions than a backend caches: assignment records
create function many() returns void language plpgsql as $$
begin
    for i in 1..70 loop
        begin insert into t values (6000 + i, 's', null); exception when others then null; end;
    end loop;
end $$;
select many();
create index t_hash on t using hash (a);
create index t_brin on t using brin (id) with (pages_per_range = 1, autosummarize = off);
create index t_gist on t using gist (p);
create index t_spgist on t using spgist (p);
create index t_spgist_text on t using spgist (a);
create table g (v int[]);
create index g_gin on g using gin (v) with (fastupdate = off);
create index g_gin_pending on g using gin ((v || 1)) with (fastupdate = on);
insert into g select array[n % 5, n, 7] from generate_series(1, 120) n;
insert into t select n, 'more ' || n, point(n % 9, n) from generate_series(10000, 10300) n;
select brin_summarize_new_values('t_brin');
select brin_desummarize_range('t_brin', 1);
delete from t where id > 10050;
delete from g where v[2] < 110;
vacuum t; vacuum g;
insert into t select n, 'again', point(n % 9, n) from generate_series(20000, 20060) n;
create sequence q; select nextval('q') from generate_series(1, 40);
create table w (x int); insert into w select generate_series(1, 600); vacuum w;
delete from w where x > 100; vacuum w;
begin; truncate w; commit;
copy w from program 'seq 1 50';
select pg_logical_emit_message(true, 'prefix', 'within a transaction');
select pg_logical_emit_message(false, 'prefix', repeat('x', 9000));
select pg_replication_origin_create('origin');
select pg_replication_origin_advance('origin', '0/123');
select pg_replication_origin_drop('origin');
create tablespace space location '';
create table in_space (x int) tablespace space; insert into in_space values (1); drop table in_space;
drop tablespace space;
select pg_create_restore_point('named');
vacuum full pg_class;
cluster t using t_pkey;
alter table t set unlogged; alter table t set logged;
checkpoint;
insert into t values (40000, repeat('long', 3000), null);
SQL
sql -c "create extension bloom" -c "create index t_bloom on t using bloom (id)" -c "insert into t values (41000, 'bloom', null)"
# A crash: the checkpoint after its recovery says what PostgreSQL's own redo makes of the log.
sql -c "create table before_the_crash (x int)" -c "begin" -c "insert into before_the_crash values (1)" \
    -c "savepoint a" -c "insert into before_the_crash values (2)" -c "prepare transaction 'kept'"
"$bin/pg_ctl" -D "$data" -m immediate -w stop >/dev/null
start
sql -c "commit prepared 'kept'"
sql -c "create database copied strategy file_copy"
sql -c "drop database copied"
stop
start -o "-c max_connections=90 -c track_commit_timestamp=off"
sql -c "select pg_switch_wal()" >/dev/null
sql -c "insert into t values (42000, 'after the restart', null)"
# Its many page images come last: the cut below keeps the first of them.
sql -c "create database logged strategy wal_log"
stop

# Whole files in one, cut somewhere in the page images of the last database.
cd "$data/pg_wal"
files=$(find . -name '????????????????????????' -printf '%f\n' | sort | awk -v first="$first" '$0 >= first')
cut_bytes=$((${CUT_KILOBYTES:-2250} * 1024))
# shellcheck disable=SC2086
cat $files > "$work/whole.wal"
head -c "$cut_bytes" "$work/whole.wal" > "$out/workload.wal"
start=$((16#${first:16:8} << 20))
cut=$(printf '0/%08X' $((start + cut_bytes)))
"$bin/pg_waldump" -p . "$(echo "$files" | head -1)" "$(echo "$files" | tail -1)" 2>/dev/null \
    | names | awk -v cut="$cut" '$4 < cut' > "$out/workload.txt" || true
