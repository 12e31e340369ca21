//! A cluster at the last page before its counters wrap around: transactions, multixacts and the offsets of their members.
//!
//! `pg_resetwal` moves the counters in strides of a third of their circle. Between two strides every database is frozen,
//! or its oldest rows would come to lie in the future.

use anyhow::{Result, ensure};
use stock_postgresql::{Server, command, run};
use wal::{MULTIXACT_MEMBERS_PER_PAGE, MULTIXACT_OFFSETS_PER_PAGE, TRANSACTIONS_PER_PAGE};

const STRIDES: u64 = 3;
const CIRCLE: u64 = 1 << 32;
/// Moves a server that does not run.
pub fn move_before_wrap(server: &Server) -> Result<()> {
    for stride in 1..=STRIDES {
        server.start();
        server.query("ALTER DATABASE template0 ALLOW_CONNECTIONS true");
        server.program("vacuumdb", &["--all", "--freeze", "--quiet"]);
        server.stop();
        // The beginning of a page, the last one in the end: a page in use would need a file that nobody wrote.
        let near = |per_page: u32| {
            let per_page = u64::from(per_page);
            (CIRCLE * stride / STRIDES - 1) / per_page * per_page
        };
        let (multixact, members) = (near(MULTIXACT_OFFSETS_PER_PAGE), near(MULTIXACT_MEMBERS_PER_PAGE));
        run(command("pg_resetwal")
            .args(["-x", &near(TRANSACTIONS_PER_PAGE).to_string()])
            .args(["-m", &format!("{multixact},{multixact}")])
            .args(["-O", &members.to_string()])
            .arg("-D")
            .arg(server.data()));
    }
    Ok(())
}

/// Freezes everything, so that status pages from before the wrap are taken away.
pub fn freeze(server: &Server) -> Result<()> {
    server.query("ALTER DATABASE template0 ALLOW_CONNECTIONS true");
    server.program("vacuumdb", &["--all", "--freeze", "--quiet"]);
    server.query("CHECKPOINT");
    let counters = server.query(
        "SELECT pg_current_xact_id()::text::numeric - 4294967296, next_multixact_id, next_multi_offset
        FROM pg_control_checkpoint()",
    );
    let has_wrapped = |counter: &str| {
        counter
            .parse()
            .is_ok_and(|counter: i64| (0..1 << 31).contains(&counter))
    };
    ensure!(
        counters.split('|').all(has_wrapped),
        "the workload did not reach the wrap: {counters}"
    );
    Ok(())
}
