//! `docs/metrics.md`, the operator's page: made from the declarations of the metrics, and held to them by a test.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use telemetry::metrics::{Description, Kind, PROCESS, Table, Unit};

/// With it in the environment the page is written, not compared: `cargo xtask metrics`.
const RENEW: &str = "BOREALIS_RENEW_METRICS_PAGE";

const BEGINNING: &str = "\
# Metrics

*This page is made from the declarations in the code by `cargo xtask metrics`; a test holds it to them.*

Every daemon tells its metrics in Prometheus' text format: `GET /metrics`, on a loopback address and port of its own.
`borealis status --json` names them, in the field `metrics` of each storage node, each instance, `control`, `proxy` and
`agent`; they stay the same for the life of the cluster. There is no password, and nothing of a client is told: no name, no
address, no statement. Of what happened, counts begin anew with each process.

```console
$ curl -s http://$(borealis status --json | jq -r .storage[0].metrics)/metrics
$ borealis status --json | jq '[.. | .metrics? | strings]'   # the targets, for Prometheus' `file_sd_configs`
```

A first set of alerts:

| expression | what it says |
|---|---|
| `volume_quorum == 0` | commits wait, or the volume could not be opened |
| `instance_available == 0` | PostgreSQL does not run |
| `storage_segments{state=~\"stranded\\|damaged\"} > 0` | a copy that does not get well by itself |
| `storage_journal_stopped == 1` | a node takes no more log |
| `storage_disk_free_bytes / storage_disk_size_bytes < 0.1` | a disk fills up |
| `agent_daemon_failing == 1` | a daemon dies again and again |
| `histogram_quantile(0.99, rate(volume_commit_seconds_bucket[5m])) > 0.1` | commits are slow |

The write amplification of a node is the bytes of layers that it wrote for each byte of log, and one more for the journal:
`sum without (from) (rate(storage_layer_written_bytes_total[1h])) / rate(storage_log_append_bytes_sum[1h]) + 1`.

A histogram `NAME` is told as `NAME_bucket`, by its label `le`, `NAME_sum` and `NAME_count`.
";

/// Every daemon, and its table.
fn chapters() -> [(&'static str, &'static Table); 6] {
    [
        ("Storage nodes", storage_node::metrics::STORAGE),
        ("Instances", compute::metrics::INSTANCE),
        ("The control process", control_plane::metrics::CONTROL),
        ("The proxy", proxy::metrics::PROXY),
        ("The agent", crate::agent::metrics::AGENT),
        ("Every daemon", PROCESS),
    ]
}

fn page() -> String {
    let mut page = BEGINNING.to_owned();
    for (title, table) in chapters() {
        write!(
            page,
            "\n## {title}\n\n| metric | kind | labels | |\n|---|---|---|---|\n"
        )
        .expect("a string");
        for metric in table {
            let Description {
                name,
                kind,
                labels,
                help,
                ..
            } = metric.description();
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            let (kind, labels) = (kind.name(), labels.join(", "));
            writeln!(page, "| `{name}` | {kind} | {labels} | {help} |").expect("a string");
        }
    }
    page
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md")
}

#[test]
fn the_operators_page_tells_every_metric() {
    let page = page();
    if std::env::var_os(RENEW).is_some() {
        std::fs::write(path(), &page).expect("the page can be written");
    }
    let written = std::fs::read_to_string(path()).unwrap_or_default();
    assert!(
        page == written,
        "docs/metrics.md is stale: `cargo xtask metrics` writes it"
    );
}

#[test]
fn names_say_component_and_unit() {
    let mut names = std::collections::BTreeSet::new();
    for metric in chapters().into_iter().flat_map(|(_, table)| table) {
        let Description {
            name,
            kind,
            unit,
            labels,
            help,
        } = metric.description();
        assert!(names.insert(name), "{name} is declared twice");
        for word in std::iter::once(&name).chain(labels) {
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(word.bytes().all(is_plain) && !word.is_empty(), "{word} of {name}");
        }
        assert!(
            labels.iter().all(|label| *label != "le"),
            "{name}: `le` is the histograms'"
        );
        assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        let has_unit = name.contains("_seconds") || name.contains("_bytes");
        assert!(kind != Kind::Histogram || has_unit, "{name} is of what?");
        assert_eq!(name.contains("_seconds"), unit == Unit::Nanoseconds, "{name}");
        assert!(help.ends_with('.') && !help.contains('|'), "{name}: {help}");
    }
}
