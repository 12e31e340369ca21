//! What PostgreSQL writes into its log is in the instance's log, whatever clients make it write.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::{Result, ensure};
use system_tests::Cluster;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_login_that_is_not_utf8_and_a_long_statement_do_not_end_the_log() -> Result<()> {
    let cluster = Cluster::up("any-log", &[])?;
    let heard =
        |said: &'static str| cluster.wait_for(said, SOON, |cluster| Ok(cluster.log("instance-1")?.contains(said)));
    let mut stranger = cluster.client_command("psql");
    stranger.args(["-X", "-c", "SELECT 1"]);
    let refused = stranger.env("PGUSER", OsStr::from_bytes(b"nobody\xff")).output()?;
    ensure!(!refused.status.success(), "{refused:?}");
    heard("nobody\u{fffd}")?;
    cluster.sql("DO $$ BEGIN RAISE LOG 'after the stranger'; END $$")?;
    heard("after the stranger")?;
    cluster.sql("DO $$ BEGIN RAISE LOG '%', repeat('long ', 200000) || 'and its end'; END $$")?;
    heard("and its end")?;
    cluster.sql("DO $$ BEGIN RAISE LOG 'after the long line'; END $$")?;
    heard("after the long line")?;
    Ok(())
}
