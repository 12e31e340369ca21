//! Stock PostgreSQL with the library, against what stock PostgreSQL would have in its files.

use crate::support::Cluster;

const COMPARED: &[&str] = &[
    "borealis.broker_socket={dir}/broker",
    "borealis.compare=on",
    "borealis.overlay_size=256kB",
    "shared_buffers=1MB",
    "max_connections=20",
    "autovacuum_naptime=1s",
];

/// Without a broker the server is as it was.
#[test]
fn passes_through_without_a_broker() {
    let cluster = Cluster::start("through", 6201, &[]);
    assert_eq!(
        cluster.sql("create table t as select generate_series(1, 1000) a; select count(*) from t"),
        "1000"
    );
    assert!(cluster.log().contains("relations stay in the files"));
}

/// With few buffers and a tiny overlay, nearly every page goes out and comes back, and is compared each time.
#[test]
fn pages_come_back_as_they_were() {
    let cluster = Cluster::start("bench", 6202, COMPARED);
    cluster.pgbench(&["-i", "-q", "-s", "5"]);
    cluster.pgbench(&["-n", "-c", "4", "-T", "5"]);
    let balances = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)";
    assert_eq!(cluster.sql(balances), "t");
    cluster.sql("vacuum full pgbench_accounts; reindex index concurrently pgbench_accounts_pkey; vacuum analyze");
    assert_eq!(cluster.sql("select count(*) from pgbench_accounts"), "500000");
    cluster.stop();
    assert!(!cluster.log().contains("PANIC"), "{}", cluster.log());
}

/// What only this instance knows while a transaction runs: its own command ids.
#[test]
fn a_cursor_does_not_see_later_changes_of_its_transaction() {
    let cluster = Cluster::start("cursor", 6203, COMPARED);
    let seen = cluster.sql(
        "create table t (a int, filler text);
         begin;
         insert into t select i, repeat('x', 500) from generate_series(1, 5000) i;
         declare c cursor for select count(*) from t;
         insert into t select i, repeat('y', 500) from generate_series(1, 5000) i;
         insert into t select -a, filler from t;
         declare d scroll cursor for select count(*) from t;
         delete from t where a < 0;
         update t set a = a + 1;
         fetch c; fetch d; select count(*) from t;
         commit;
         select count(*) from t",
    );
    assert_eq!(seen, "5000\n20000\n10000\n10000");
    cluster.stop();
}

/// Sequences do not jump, and unlogged and temporary relations keep their pages.
#[test]
fn sequences_unlogged_and_temporary_relations() {
    let cluster = Cluster::start("kinds", 6204, COMPARED);
    let filler = "select count(*) from (select i, md5(i::text) from generate_series(1, 20000) i order by 2) x";
    cluster.sql(&format!(
        "create sequence s; create table big as select i, repeat('x', 1000) f from generate_series(1, 5000) i;
         create unlogged table u (a int primary key, f text);
         insert into u select i, repeat('u', 400) from generate_series(1, 5000) i; {filler}"
    ));
    for expected in 1..=5 {
        assert_eq!(cluster.sql("select nextval('s')"), expected.to_string());
        assert_eq!(cluster.sql("select count(*) from big"), "5000");
    }
    assert_eq!(cluster.sql("select count(*), sum(a) from u"), "5000|12502500");
    assert_eq!(
        cluster.sql("create index u2 on u (f, a); set enable_seqscan = off; select count(*) from u where f > 'a'"),
        "5000"
    );
    assert_eq!(
        cluster.sql("alter table u set logged; select count(*) from big; select sum(a) from u"),
        "5000\n12502500"
    );
    assert_eq!(
        cluster.sql("alter table u set unlogged; select count(*) from big; select sum(a) from u"),
        "5000\n12502500"
    );
    let temporary = "create temp table v as select i a from generate_series(1, 50000) i; update v set a = a + 1; select sum(a) from v";
    assert_eq!(cluster.sql(temporary), "1250075000");
    cluster.stop();
}

/// Sizes follow truncation, and what was cut off does not come back.
#[test]
fn truncated_pages_are_gone() {
    let cluster = Cluster::start("truncate", 6205, COMPARED);
    cluster.sql("create table t as select i a, repeat('x', 500) f from generate_series(1, 10000) i");
    assert_eq!(
        cluster.sql("delete from t where a > 100; vacuum t; select count(*) from t"),
        "100"
    );
    assert_eq!(
        cluster.sql("insert into t select i, 'y' from generate_series(1, 30000) i; select count(*) from t"),
        "30100"
    );
    assert_eq!(cluster.sql("truncate t; select count(*) from t"), "0");
    assert_eq!(cluster.sql("begin; create table u as select * from pg_class; truncate u; insert into u select * from pg_class limit 7; commit; select count(*) from u"), "7");
    cluster.stop();
}

/// Databases are copied through the log, and many relations fit into one transaction.
#[test]
fn databases_and_many_relations() {
    // Autovacuum would note sizes of its own.
    let settings = [COMPARED, &["autovacuum=off"]].concat();
    let cluster = Cluster::start("many", 6206, &settings);
    cluster.sql("create database other");
    assert_eq!(
        cluster.sql_in(
            "other",
            "create table t as select generate_series(1, 1000) a; select count(*) from t"
        ),
        "1000"
    );
    cluster.sql("create database copy template other");
    assert_eq!(cluster.sql_in("copy", "select count(*) from t"), "1000");
    cluster.sql_in("copy", "create unlogged table u as select i, repeat('u', 900) f from generate_series(1, 3000) i; create index on u (i)");
    cluster.sql("create database again template copy");
    assert_eq!(
        cluster.sql_in("again", "select count(*), sum(i) from u where f > 't'"),
        "3000|4501500"
    );
    cluster.sql("drop database again");
    // One that fails while it is copied leaves nothing behind, however far it came; a whole copy notes what there is of the
    // template.
    cluster.sql(include_str!("../../src/functions.sql"));
    cluster.sql_in(
        "copy",
        "create table big as select i, repeat('b', 900) f from generate_series(1, 30000) i",
    );
    let known = "select c->>'relation_sizes', c->>'overlay_pages_of_maps' from (select borealis_counters()::json c) x";
    cluster.sql("create database whole template copy");
    cluster.sql("drop database whole");
    let without = cluster.sql(known);
    for _ in 0..3 {
        let error = cluster.sql_error("set statement_timeout = '100ms'; create database failed template copy");
        assert!(error.contains("statement timeout"), "{error}");
        assert_eq!(cluster.sql(known), without);
    }
    cluster.sql("drop database other; drop database copy");
    let many = "do $$ begin for i in 1..400 loop execute format('create table many_%s (a int primary key, b text)', i); end loop; end $$";
    cluster.sql(many);
    assert_eq!(
        cluster.sql("select count(*) from pg_class where relname ~ '^many_\\d+$'"),
        "400"
    );
    cluster
        .sql("do $$ begin for i in 1..400 loop execute format('drop table many_%s', i); end loop; end $$; checkpoint");
    cluster.stop();
}

/// More forks are changed than the size table has room for: those make room that the volume knows as they are.
#[test]
fn more_relations_than_the_size_table_holds() {
    let settings = [COMPARED, &["borealis.relation_sizes=1024", "autovacuum=off"]].concat();
    let cluster = Cluster::start("sizes", 6215, &settings);
    cluster.sql(include_str!("../../src/functions.sql"));
    let for_all = |statements: &str| {
        cluster.sql(&format!(
            "do $$ begin for i in 1..500 loop execute format('{statements}', i, i); end loop; end $$"
        ))
    };
    for_all("create table many_%s (a int primary key, b text); insert into many_%s select generate_series(1, 500)");
    for_all("delete from many_%s where a > 10; insert into many_%s values (1000)");
    cluster.sql("vacuum");
    for_all("create index on many_%s (b); truncate many_%s");
    for_all("insert into many_%s values (1); select count(*) from many_%s");
    let rows = "select count(*), sum(n) from (select (xpath('/row/c/text()', query_to_xml(
        format('select count(*) as c from %I', relname), false, true, '')))[1]::text::int n
        from pg_class where relname ~ '^many_\\d+$') x";
    assert_eq!(cluster.sql(rows), "500|500");
    let known = "select (c->>'relation_sizes')::int <= 1024 from (select borealis_counters()::json c) x";
    assert_eq!(cluster.sql(known), "t");
    for_all("drop table many_%s; select %s");
    cluster.stop();
    assert!(!cluster.log().contains("PANIC"), "{}", cluster.log());
}

/// A table that is full of what the volume does not know fails the statement, and harms nothing.
#[test]
fn a_full_size_table_fails_the_statement_only() {
    // Nothing but empty files to ask: the volume knows no size.
    let settings = [
        "borealis.broker_socket={dir}/broker",
        "borealis.relation_sizes=1024",
        "autovacuum=off",
    ];
    let cluster = Cluster::start("nosizes", 6216, &settings);
    let error = cluster.sql_error(
        "do $$ begin for i in 1..1200 loop execute format('create table many_%s as select 1 a', i); end loop; end $$",
    );
    assert!(
        error.contains("has no room for") && error.contains("borealis.relation_sizes"),
        "{error}"
    );
    assert_eq!(
        cluster.sql("create table t as select 1 a; truncate t; select count(*) from t"),
        "0"
    );
    assert!(!cluster.log().contains("PANIC"), "{}", cluster.log());
}

/// A sequence's page stays as long as its log is ahead of it, and no longer; its values have no gap either way.
#[test]
fn a_sequence_stays_while_its_log_is_ahead() {
    // No checkpoint but its own.
    let settings = [COMPARED, &["autovacuum=off", "checkpoint_timeout=1h"]].concat();
    let cluster = Cluster::start("ahead", 6217, &settings);
    cluster.sql(include_str!("../../src/functions.sql"));
    let kept = || {
        cluster.sql("checkpoint; select borealis_evict_all()");
        let kept = cluster.sql("select c->>'overlay_pages_kept_forever' from (select borealis_counters()::json c) x");
        kept.parse::<u32>().expect("a number")
    };
    let next = "select min(nextval('s' || i)), max(nextval('s' || i)) from generate_series(1, 20) i";
    cluster.sql("do $$ begin for i in 1..20 loop execute format('create sequence s%s', i); end loop; end $$");
    let unused = kept();
    assert_eq!(cluster.sql(next), "1|2");
    assert_eq!(kept(), unused + 20);
    // The checkpoint made the next value log anew: it and 32 further ones.
    for value in (3..35).step_by(2) {
        assert_eq!(cluster.sql(next), format!("{value}|{}", value + 1));
    }
    cluster.sql("select nextval('s' || i) from generate_series(1, 20) i");
    assert_eq!(kept(), unused, "all logged values are used");
    assert_eq!(cluster.sql(next), "36|37", "read back from the volume");
    cluster.stop();
}

/// A truncation runs in a critical section, where an error would end the server: it gets by without room for its size.
#[test]
fn a_truncation_needs_no_room_in_the_size_table() {
    let settings = [
        "borealis.broker_socket={dir}/broker",
        "borealis.relation_sizes=1024",
        "autovacuum=off",
    ];
    let cluster = Cluster::start("noroom", 6218, &settings);
    cluster.sql(include_str!("../../src/functions.sql"));
    cluster.sql("delete from pg_description");
    // A transaction that stays open, with more tables than there is room for; each that has none fails by itself.
    let fill = "begin;
         do $$ begin for i in 1..3000 loop
             begin execute format('create table many_%s as select 1 a', i); exception when out_of_memory then null; end;
         end loop; end $$;
         select pg_sleep(1000)";
    let mut filling = cluster.client("psql");
    filling.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", fill]);
    let mut filling = filling.spawn().expect("psql exists");
    let sleeps = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    while cluster.sql(sleeps) != "1" {
        assert!(filling.try_wait().expect("a child").is_none(), "{}", cluster.log());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let full = "select c->>'relation_sizes_changed' from (select borealis_counters()::json c) x";
    assert_eq!(cluster.sql(full), "1024", "there is still room");
    let mut vacuum = cluster.client("psql");
    vacuum.args([
        "-X",
        "-d",
        "postgres",
        "-c",
        "vacuum (truncate, verbose) pg_description",
    ]);
    let output = vacuum.output().expect("psql exists");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{}", cluster.log());
    assert!(said.contains("0 remain"), "nothing was truncated: {said}");
    assert_eq!(cluster.sql(full), "1024");
    assert!(!cluster.log().contains("PANIC"), "{}", cluster.log());
    cluster.sql("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'");
    filling.wait().expect("it ends");
}

/// The SQL functions, and the sizes that `\dt+` shows.
#[test]
fn functions_and_sizes() {
    // Autovacuum would lock what is to be evicted.
    let settings = [COMPARED, &["autovacuum=off"]].concat();
    let cluster = Cluster::start("functions", 6207, &settings);
    cluster.sql(include_str!("../../src/functions.sql"));
    assert_eq!(cluster.sql("select borealis_version()"), env!("CARGO_PKG_VERSION"));
    cluster.sql("create table t (a int primary key, f text, g text); insert into t select i, repeat('x', 500), 'g' from generate_series(1, 4000) i");
    let blocks = "select pg_relation_size('t') / 8192 = (select max((ctid::text::point)[0]) + 1 from t)";
    assert_eq!(cluster.sql(blocks), "t");
    let parts = "select pg_total_relation_size('t') = pg_table_size('t') + pg_indexes_size('t'), pg_indexes_size('t') > 80000, pg_table_size('t') > 2000000";
    assert_eq!(cluster.sql(parts), "t|t|t");
    assert_eq!(cluster.sql("select pg_database_size('postgres') > 9000000, pg_database_size(oid) > 9000000, pg_tablespace_size(1663) > 9000000 from pg_database where datname = 'postgres'"), "t|t|t");
    assert_eq!(
        cluster.sql("select pg_relation_size(1) is null, pg_relation_size('pg_stats')"),
        "t|0"
    );
    assert_eq!(cluster.sql("select borealis_evict_all() >= 3"), "t");
    assert_eq!(cluster.sql("select count(*) from t"), "4000");
    let counters = "select c->>'pages_compared' > '0', (c->>'pages_read_from_volume')::bigint > 100, (c->>'pages_read_from_overlay')::bigint > 0 from (select borealis_counters()::json c) x";
    assert_eq!(cluster.sql(counters), "t|t|t");
    println!("{}", cluster.sql("select borealis_counters()"));
}

/// Settings of a server whose volume never gets anything: there is no quorum, so nothing may be forgotten.
const WITHOUT_QUORUM: &[&str] = &[
    "borealis.broker_socket={dir}/broker",
    "borealis.overlay_size=1MB",
    "borealis.spill_size_max=256MB",
    "synchronous_standby_names=nobody",
    "borealis.start_lsn=0/1500000",
    "shared_buffers=1MB",
    "autovacuum=off",
];

/// Contents of the files of relations, by name, but for the relation cache's own.
fn relation_files(cluster: &Cluster) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let data = cluster.dir.join("data");
    let mut folders = vec![data.join("global"), data.join("base")];
    let mut files = std::collections::BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.file_name().expect("an entry").to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.starts_with(|first: char| first.is_ascii_digit()) {
                files.insert(path.clone(), std::fs::read(&path).expect("readable"));
            }
        }
    }
    files
}

/// Pages of permanent relations never reach the cluster's files, and are all found again.
#[test]
fn permanent_pages_never_reach_files() {
    let cluster = Cluster::start("files", 6208, WITHOUT_QUORUM);
    let before = relation_files(&cluster);
    let seen = cluster.sql(
        "begin;
         create table t (a int primary key, f text);
         insert into t select i, repeat('x', 700) from generate_series(1, 6000) i;
         create index t_f on t (f, a);
         update t set f = repeat('y', 300) where a % 3 = 0;
         create table u as select * from t;
         select count(*), sum(a) from u where f like 'y%';
         set local enable_seqscan = off;
         select count(*) from t where a between 500 and 1499;
         truncate u;
         cluster t using t_f;
         reindex table t;
         select count(*), sum(a) from t where f like 'x%';
         select count(*) from u;
         rollback;
         select count(*) > 300 from pg_class",
    );
    assert_eq!(seen, "2000|6003000\n1000\n4000|12000000\n0\nt");
    for (path, content) in relation_files(&cluster) {
        match before.get(&path) {
            Some(old) => assert!(*old == content, "{} was written", path.display()),
            None => assert!(content.is_empty(), "{} has {} bytes", path.display(), content.len()),
        }
    }
}

/// When neither memory nor spill file has room, the statement fails, and the server lives.
#[test]
fn a_full_overlay_fails_the_statement_only() {
    let mut settings = WITHOUT_QUORUM.to_vec();
    settings.push("borealis.spill_size_max=2MB");
    let cluster = Cluster::start("full", 6209, &settings);
    let error = cluster.sql_error("begin; create table t (a int, f text); insert into t select i, repeat('x', 700) from generate_series(1, 50000) i;");
    assert!(
        error.contains("with rows of transactions that still run") && error.contains("borealis.spill_size_max"),
        "{error}"
    );
    assert_eq!(cluster.sql("select count(*) > 300 from pg_class"), "t");
    assert!(!cluster.log().contains("PANIC"), "{}", cluster.log());
}

/// A volume that cannot be read fails the statement with its SQLSTATE; one that does not answer can be given up on.
#[test]
fn a_volume_that_does_not_answer_fails_the_statement_only() {
    let settings = [COMPARED, &["autovacuum=off"]].concat();
    let cluster = Cluster::start("broken", 6210, &settings);
    cluster.sql(include_str!("../../src/functions.sql"));
    cluster.sql("create table t as select i, repeat('x', 700) f from generate_series(1, 3000) i");
    cluster.sql("checkpoint; select borealis_evict_all()");
    let stuck = cluster.dir.join("stuck");
    // A new session could not even read the catalog, so the one that waits has to be there before.
    let waits =
        "select count(*) from pg_class;\n\\! touch {stuck}\nset statement_timeout = '300ms'; select count(*) from t;"
            .replace("{stuck}", &stuck.display().to_string());
    let error = cluster.sql_error(&waits);
    std::fs::remove_file(&stuck).expect("psql made it");
    assert!(
        error.contains("canceling statement due to statement timeout"),
        "{error}"
    );
    assert_eq!(cluster.sql("select count(*) from t"), "3000");

    let file = cluster.dir.join("data").join(
        cluster
            .sql("select borealis_evict_all()::text; select pg_relation_filepath('t')")
            .lines()
            .last()
            .expect("a path"),
    );
    let content = std::fs::read(&file).expect("it is there");
    std::fs::write(&file, &content[..8192]).expect("we are root");
    let error = cluster.sql_error("\\set VERBOSITY verbose\nset synchronize_seqscans = off;\nselect count(*) from t;");
    assert!(error.contains("58030") && error.contains("cannot read"), "{error}");
    std::fs::write(&file, &content).expect("we are root");
    assert_eq!(cluster.sql("select count(*) from t"), "3000");
}
