//! What the recorded server is made to do.

use std::path::Path;

use stock_postgresql::{Server, run};

/// A load: what has to be there before, and what is measured.
pub struct Load {
    /// Names the recording's files.
    pub name: &'static str,
    pub(crate) prepare: fn(&Server),
    pub(crate) run: fn(&Server),
}

impl Load {
    /// `pgbench`, TPC-B: four sessions on one branch's 100 000 accounts.
    pub const PGBENCH: Load = Load {
        name: "pgbench",
        prepare: |server| drop(server.program("pgbench", &["-i", "-q", "-s", "1"])),
        run: |server| drop(server.program("pgbench", &["-n", "-c", "4", "-j", "2", "-t", "25000"])),
    };

    /// Btree indexes: built over a table, then grown row by row in random order, equal keys among them.
    pub const INDEX_BUILD: Load = Load {
        name: "index-build",
        prepare: |server| sql(server, "prepare-index-build.sql"),
        run: |server| sql(server, "index-build.sql"),
    };

    /// GIN indexes: built over arrays, then grown through their pending lists and without them, and vacuumed.
    pub const GIN: Load = Load {
        name: "gin",
        prepare: |server| sql(server, "prepare-gin.sql"),
        run: |server| sql(server, "gin.sql"),
    };

    /// What the oracle does to indexes other than btrees, each scenario in a database of its own: every kind of their records.
    pub const INDEXES: Load = Load {
        name: "indexes",
        prepare: |_| (),
        run: |server| {
            ["hash", "gin", "gist", "spgist", "brin"]
                .iter()
                .for_each(|name| scenario(server, name))
        },
    };

    /// The loads in small, for the committed sample.
    pub const SAMPLE: Load = Load {
        name: "sample",
        prepare: |server| sql(server, "prepare-sample.sql"),
        run: |server| {
            let script = sql_file("sample-pgbench.sql");
            server.program("pgbench", &["-n", "-c", "1", "-t", "400", "-f", &script]);
            sql(server, "sample.sql");
        },
    };
}

fn sql_file(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    folder.join(name).display().to_string()
}

fn sql(server: &Server, name: &str) {
    server.script(Path::new(&sql_file(name)));
}

/// One scenario of the oracle, without its concurrent sessions.
fn scenario(server: &Server, name: &str) {
    let oracle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../oracle");
    server.query(&format!("CREATE DATABASE {name}"));
    let mut psql = server.client("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", name]);
    psql.arg("-f").arg(oracle.join("prelude.sql"));
    psql.arg("-f").arg(oracle.join(format!("workload/{name}.sql")));
    run(&mut psql);
}
