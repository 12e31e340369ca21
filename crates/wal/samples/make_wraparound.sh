#!/usr/bin/env bash
# Makes the samples of a cluster whose counters wrap around: transactions, multixacts, and the offsets of their members.
#
#   wraparound.wal   WAL files of 1 MiB, one after the other, cut after the last record
#   wraparound.txt   what pg_waldump says of every record of it: kind, length, transaction, position, previous, blocks
#
# Run as a user who may start PostgreSQL (not root): samples/make_wraparound.sh OUTPUT-DIRECTORY [PORT]
set -euo pipefail
# shellcheck source=names.sh
source "$(dirname "$0")/names.sh"
out=$1
port=${2:-5462}
bin=${PGBIN:-/usr/lib/postgresql/15/bin}
work=$(mktemp -d)
data=$work/data
trap '"$bin/pg_ctl" -D "$data" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

"$bin/initdb" -D "$data" --wal-segsize=1 --no-sync --auth=trust >/dev/null
cat >> "$data/postgresql.conf" <<CONF
port = $port
unix_socket_directories = '$work'
listen_addresses = ''
track_commit_timestamp = on
max_prepared_transactions = 5
wal_compression = zstd
wal_keep_size = 200MB
autovacuum = off
checkpoint_timeout = 1h
vacuum_failsafe_age = 2100000000
vacuum_multixact_failsafe_age = 2100000000
fsync = off
CONF
start() { "$bin/pg_ctl" -D "$data" -w -l "$work/log" "$@" start >/dev/null; }
stop() { "$bin/pg_ctl" -D "$data" -m fast -w stop >/dev/null; }
sql() { "$bin/psql" -h "$work" -p "$port" -d "${database:-postgres}" -X -q -v ON_ERROR_STOP=1 -At "$@"; }
freeze() { "$bin/vacuumdb" -h "$work" -p "$port" --all --freeze --quiet; }
# The file of an array of status pages that holds a number, of zeros: PostgreSQL expects a page in use to be there.
file() { head -c 262144 /dev/zero > "$data/$1/$(printf %04X $(($2 / ($3 * 32))))"; }

start
sql -c "alter database template0 allow_connections true"
# Counters move by less than half of their circle at once. Rows that are not frozen would come to lie in the future.
for to in 2000000000 4000000000 4294967296; do
    freeze; stop
    near=$((to - 120)); multi=$((to - 25)); member=$((to - 30))
    "$bin/pg_resetwal" -D "$data" -x $near -u $near -c $near,$near -m $multi,$multi -O $member >/dev/null
    file pg_xact $near 32768; file pg_commit_ts $near 819
    file pg_multixact/offsets $multi 2048; file pg_multixact/members $member 1636
    start
done
# The sample begins with the checkpoint of a clean stop.
first=$(sql -c "checkpoint" -c "select pg_switch_wal()" -c "select pg_walfile_name(pg_current_wal_insert_lsn())" | tail -1)
stop; start
sql >/dev/null <<'SQL'
create table t (id int primary key, a int);
insert into t select n, 0 from generate_series(1, 100) n;
begin; update t set a = 9 where id = 99; prepare transaction 'before';
-- Every row gets a multixact of its own: a lock of the transaction, and an update of a subtransaction.
do $$ begin
    for i in 1..90 loop
        perform id from t where id = i for key share;
        begin update t set a = a + 1 where id = i; exception when division_by_zero then null; end;
    end loop;
end $$;
commit prepared 'before';
do $$ begin
    for i in 1..60 loop begin insert into t values (1000 + i); exception when division_by_zero then null; end; end loop;
end $$;
select count(*) from t where a = 1;
SQL
# A crash: the checkpoint after its recovery says what PostgreSQL's own redo makes of the log.
sql -c "begin" -c "insert into t values (5000)" -c "savepoint a" -c "insert into t values (5001)" -c "prepare transaction 'kept'"
"$bin/pg_ctl" -D "$data" -m immediate -w stop >/dev/null
start
sql -c "commit prepared 'kept'"
# Takes the pages from before the wraparound away.
freeze
sql -c "checkpoint" -c "insert into t values (6000)"
stop

cd "$data/pg_wal"
files=$(find . -name '????????????????????????' -printf '%f\n' | sort | awk -v first="$first" '$0 >= first')
"$bin/pg_waldump" -p . "$(echo "$files" | head -1)" "$(echo "$files" | tail -1)" 2>/dev/null \
    | names > "$out/wraparound.txt" || true
read -r _ bytes _ last _ < <(tail -n 1 "$out/wraparound.txt")
begin=$((16#${first:16:8} << 20))
end=$((16#${last#*/} + bytes - begin))
# shellcheck disable=SC2086
cat $files | head -c $(((end + 7) / 8 * 8)) > "$out/wraparound.wal" || true
