//! The volume's answers come late or not at all, or find another state than the one that was asked about.

use std::fs;
use std::process::Command;
use std::time::Duration;

use stock_postgresql::run;

use crate::support::Cluster;

const COMPARED: &[&str] = &[
    "borealis.broker_socket={dir}/broker",
    "borealis.compare=on",
    "borealis.overlay_size=256kB",
    "shared_buffers=1MB",
    "max_connections=20",
    "autovacuum=off",
];

/// A size that was asked for before the relation grew does not take the place of the newer one, which was evicted.
#[test]
fn a_late_size_is_not_noted_over_a_newer_one() {
    let settings = [COMPARED, &["borealis.relation_sizes=1024"]].concat();
    let cluster = Cluster::start("late", 6221, &settings);
    let fill = |name: &str| {
        cluster.sql(&format!(
            "do $$ begin for i in 1..500 loop
                 execute format('create table {name}_%s (a int primary key, b text)', i);
             end loop; end $$"
        ))
    };
    let insert = "insert into t select i, repeat('x', 700) from generate_series(1, 100) i";
    let relation = cluster.sql(&format!(
        "create table t (i int, f text); {insert}; select pg_relation_filenode('t')"
    ));
    fill("before");
    fs::write(cluster.dir.join("late"), &relation).expect("we are root");
    let held = cluster.dir.join("late.held");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| cluster.sql("select count(*) from t"));
        while !held.exists() {
            assert!(!reader.is_finished(), "the size was still known");
            std::thread::sleep(Duration::from_millis(10));
        }
        cluster.sql(insert);
        fill("meanwhile");
        fs::remove_file(&held).expect("the broker made it");
        reader.join().expect("it reads");
    });
    assert_eq!(cluster.sql("select count(*) from t"), "200");
    cluster.sql(insert);
    assert_eq!(cluster.sql("select count(*) from t"), "300");
    cluster.stop();
}

/// What happens after a commit cannot fail any more, so it asks nobody: not even about tables that were never touched.
#[test]
fn a_drop_that_is_committed_asks_nobody() {
    let settings = [COMPARED, &["max_prepared_transactions=2"]].concat();
    let cluster = Cluster::start("drop", 6222, &settings);
    let refuse = format!("\\! touch {}", cluster.dir.join("refusing").display());
    let again = || fs::remove_file(cluster.dir.join("refusing")).expect("psql made it");
    let left = "select count(*) from pg_class where relname in ('sql_features', 'sql_parts', 'sql_sizing')";
    assert_eq!(cluster.sql(left), "3");
    cluster.sql(&format!(
        "begin; drop table information_schema.sql_features;\n{refuse}\ncommit;"
    ));
    again();
    assert_eq!(cluster.sql(left), "2");
    cluster.sql(&format!(
        "begin; drop table information_schema.sql_parts; prepare transaction 'drop';\n{refuse}\ncommit prepared 'drop';"
    ));
    again();
    assert_eq!(cluster.sql(left), "1");
    cluster.stop();
    assert!(!cluster.log().contains("PANIC"), "{}", cluster.log());
}

/// A file of a map that an earlier attempt left behind is taken for the new one.
#[test]
fn a_map_whose_file_is_there_is_created() {
    let cluster = Cluster::start("orphan", 6223, COMPARED);
    // An index-only scan asks whether there is a visibility map.
    let file = cluster.sql(
        "create table t (a int primary key); insert into t select generate_series(1, 1000);
         set enable_seqscan = off; set enable_bitmapscan = off; create temp table asked as select a from t where a < 100;
         select pg_relation_filepath('t')",
    );
    let file = cluster.dir.join("data").join(format!("{file}_vm"));
    assert!(!file.exists());
    fs::write(&file, "").expect("we are root");
    run(Command::new("chown").arg("postgres").arg(&file));
    cluster.sql("vacuum t");
    assert_eq!(
        cluster.sql("select count(*) from t; select relallvisible from pg_class where relname = 't'"),
        "1000\n5"
    );
    cluster.stop();
}

/// The backend that copies an unlogged table is not alone in finding out, by one of its pages, that it is one.
#[test]
fn an_unlogged_table_is_copied_while_others_write_its_pages() {
    let cluster = Cluster::start("moves", 6224, COMPARED);
    cluster.pgbench(&["-i", "-q"]);
    cluster.sql("create database pattern");
    cluster.sql_in(
        "pattern",
        "create unlogged table u as select i, repeat('u', 900) f from generate_series(1, 50000) i",
    );
    for copy in 1..=3 {
        std::thread::scope(|scope| {
            let copied = scope.spawn(|| cluster.sql(&format!("create database copy_{copy} template pattern")));
            // Reading needs buffers, so somebody writes out what stands in them.
            while !copied.is_finished() {
                cluster.pgbench(&["-n", "-S", "-c", "4", "-t", "1000"]);
            }
        });
        let rows = cluster.sql_in(&format!("copy_{copy}"), "select count(*), sum(i) from u");
        assert_eq!(rows, "50000|1250025000");
        cluster.sql(&format!("drop database copy_{copy}"));
    }
    cluster.stop();
}
