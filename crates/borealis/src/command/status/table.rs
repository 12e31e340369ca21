//! `borealis status` for people: one line for each storage node and instance, and what does not get well by itself.

use serde_json::Value;

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What stands behind a storage node's line: what does not get well by itself, what it copies, or that it holds nothing.
fn trouble(node: &Value) -> String {
    let is = |what: &str| node[what].as_bool().unwrap_or(false);
    let number = |what: &str| node[what].as_u64().unwrap_or(0);
    if is("mending") {
        "  damaged: being mended from its peers, no vote until then".to_owned()
    } else if is("damaged") {
        "  damaged: no vote until `borealis storage replace`".to_owned()
    } else if number("lost") != 0 {
        "  lost its copies: no vote until `borealis storage replace`".to_owned()
    } else if number("copying") != 0 {
        let (copied, expected) = (
            number("copied_bytes") >> 20,
            number("copied_bytes_expected").div_ceil(1 << 20),
        );
        format!("  copying: {copied} of {expected} MiB")
    } else if node["segments"].as_u64() == Some(0) {
        "  spare".to_owned()
    } else if is("stranded") {
        "  stranded: no other node has the log that it lacks".to_owned()
    } else {
        scrubbing(&node["scrub"])
    }
}

/// A pass that is under way, or what was found since the node was started.
fn scrubbing(scrub: &Value) -> String {
    let number = |what: &str| scrub[what].as_u64().unwrap_or(0);
    if scrub["running"].as_bool().unwrap_or(false) {
        let (read, all) = (
            number("bytes_checked") >> 20,
            number("bytes_expected").div_ceil(1 << 20),
        );
        format!("  scrub: {read} of {all} MiB")
    } else if number("files_damaged") != 0 {
        let damaged = match number("files_damaged") {
            1 => "1 file was".to_owned(),
            files => format!("{files} files were"),
        };
        format!("  scrub: {damaged} damaged, {} mended", number("files_mended"))
    } else {
        String::new()
    }
}

/// Copies that are on their way from one node to another, a line each.
fn moves(volume: &Value) -> String {
    let changes = volume["changes"].as_array().into_iter().flatten();
    let line = |change: &Value| {
        let why = change["why"].as_str().map_or(String::new(), |why| format!(" ({why})"));
        let of = |name: &str| text(&change[name]);
        format!(
            "move: group {}, {} to {}: {}{why}\n",
            of("group"),
            of("leaving"),
            of("joining"),
            of("activity")
        )
    };
    changes.map(line).collect()
}

/// Which of a storage node's segments keep log only, if any does.
fn tails(node: &Value) -> String {
    let number = |what: &str| node[what].as_u64().unwrap_or(0);
    match (number("segments"), number("tails")) {
        (_, 0) => String::new(),
        (1, 1) => "  tail".to_owned(),
        (all, tails) => format!("  {tails} of {all} segments are tails"),
    }
}

/// Which copies a quorum that is lost waits for.
fn lost_quorums(volume: &Value) -> String {
    let lost = |which: &str| volume["quorum"][which] == "lost";
    let is_mixed = volume["segments"] == "full-and-tail";
    let mut out = String::new();
    if lost("write") {
        let rule = if is_mixed {
            "four of its six, or all three full ones"
        } else {
            "four of its six"
        };
        out += &format!("  commits wait: of each group's segments they need {rule}\n");
    }
    if lost("read") {
        let rule = if is_mixed {
            "three of its six, one of them full"
        } else {
            "three of its six"
        };
        out += &format!("  the volume cannot be opened: of each group's segments that needs {rule}\n");
    }
    out
}

pub(super) fn of(status: &Value) -> String {
    let volume = &status["volume"];
    let mut out = format!(
        "volume {}  epoch {}  durable {}  {} MiB\n",
        text(&volume["id"]),
        text(&volume["epoch"]),
        text(&volume["durable_lsn"]),
        volume["size_bytes"].as_u64().unwrap_or(0) >> 20,
    );
    let quorum = &volume["quorum"];
    let missing: Vec<String> = quorum["missing"].as_array().into_iter().flatten().map(text).collect();
    let missing = if missing.is_empty() {
        "none".to_owned()
    } else {
        missing.join(", ")
    };
    out += &format!(
        "quorum: write {}, read {}; missing: {missing}\n{}",
        text(&quorum["write"]),
        text(&quorum["read"]),
        lost_quorums(volume)
    );
    if let Some(hint) = quorum["hint"].as_str() {
        out += &format!("hint:  {hint}\n");
    }
    out += &moves(volume);
    out.push('\n');
    out += &format!(
        "{:<12} {:<5} {:<12} {:>8}  {:<18} {:>12}\n",
        "storage", "zone", "state", "pid", "complete LSN", "lag bytes"
    );
    for node in status["storage"].as_array().into_iter().flatten() {
        out += &format!(
            "{:<12} {:<5} {:<12} {:>8}  {:<16} {:>12}{}{}\n",
            text(&node["name"]),
            text(&node["zone"]),
            text(&node["state"]),
            text(&node["pid"]),
            text(&node["complete_lsn"]),
            text(&node["lag_bytes"]),
            tails(node),
            trouble(node),
        );
    }
    out += &format!(
        "\n{:<12} {:<8} {:<12} {:>8}  {:<21} {}\n",
        "instance", "role", "state", "pid", "address", "activity"
    );
    for instance in status["instances"].as_array().into_iter().flatten() {
        out += &format!(
            "{:<12} {:<8} {:<12} {:>8}  {:<21} {}\n",
            text(&instance["name"]),
            text(&instance["role"]),
            text(&instance["state"]),
            text(&instance["process_pid"]),
            text(&instance["address"]),
            instance["activity"].as_str().unwrap_or_default(),
        );
    }
    out + &format!("\ncluster endpoint: {}\n", text(&status["endpoints"]["cluster"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_get_well_by_itself_is_said() {
        assert_eq!(trouble(&json!({"damaged": false, "stranded": false})), "");
        assert_eq!(
            trouble(&json!({"damaged": null, "stranded": null})),
            "",
            "nobody answered"
        );
        assert!(trouble(&json!({"damaged": false, "stranded": true})).contains("stranded"));
        assert!(trouble(&json!({"damaged": true, "stranded": true})).contains("storage replace"));
        assert!(trouble(&json!({"damaged": true, "mending": true})).contains("being mended"));
        let read = json!({ "running": true, "bytes_checked": 3 << 20, "bytes_expected": 9 << 20, "files_damaged": 0 });
        assert_eq!(trouble(&json!({ "scrub": read })), "  scrub: 3 of 9 MiB");
        let found = json!({ "running": false, "files_damaged": 2, "files_mended": 2 });
        assert_eq!(
            trouble(&json!({ "scrub": found })),
            "  scrub: 2 files were damaged, 2 mended"
        );
    }
}
