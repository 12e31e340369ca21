//! An extension that would write records of its own is refused at start, by name.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use system_tests::Cluster;

const SOURCE: &str = r#"
#include "postgres.h"
#include "access/xlog_internal.h"
#include "fmgr.h"
PG_MODULE_MAGIC;
void _PG_init(void);
static void redo(XLogReaderState *record) {}
static void desc(StringInfo buffer, XLogReaderState *record) {}
static const char *identify(uint8 info) { return "SOMETHING"; }
static RmgrData manager = { .rm_name = "of_the_test", .rm_redo = redo, .rm_desc = desc, .rm_identify = identify };
void _PG_init(void) { RegisterCustomRmgr(RM_EXPERIMENTAL_ID, &manager); }
"#;

/// Compiles the extension into the folder where the cluster's own library lies.
fn compile(folder: &Path) -> Result<()> {
    let headers = Command::new("pg_config").arg("--includedir-server").output()?;
    let headers = String::from_utf8(headers.stdout)?;
    let source = folder.join("of_the_test.c");
    std::fs::write(&source, SOURCE)?;
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-I", headers.trim(), "-o"])
        .arg(folder.join("of_the_test.so"))
        .arg(&source)
        .output()
        .context("run cc")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    Ok(())
}

#[test]
fn an_extension_with_records_of_its_own_is_refused_at_start() -> Result<()> {
    let mut cluster = Cluster::up("custom-manager", &[])?;
    cluster.sql("CREATE TABLE t AS SELECT 7 AS id")?;
    let folder = cluster.directory().with_file_name("module");
    std::fs::create_dir(&folder)?;
    compile(&folder)?;
    let library = folder.join("of_the_test.so");
    let library = library.to_str().context("the temporary directory has a plain name")?;
    cluster.sql(&format!("ALTER SYSTEM SET shared_preload_libraries = '{library}'"))?;
    cluster.borealis(&["down"])?;
    let refused = cluster.borealis_output(&["up"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success(), "it started");
    for word in ["resource manager 128", "\"of_the_test\""] {
        ensure!(said.contains(word), "the message does not name {word}: {said}");
    }
    cluster.borealis(&["down"])?;
    std::fs::write(cluster.directory().join("postgresql.auto.conf"), "# taken back\n")?;
    cluster.start()?;
    ensure!(cluster.sql("SELECT id FROM t")? == "7", "rows");
    Ok(())
}
