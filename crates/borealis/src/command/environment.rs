//! PostgreSQL's settings as a person gives them: `BOREALIS_PG_<SETTING>` in the environment of `up`, and
//! `DIR/postgresql.conf`. What Borealis owns is refused in both, with the reason.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};
use compute::settings::{LIBRARY_SETTINGS, refusal};

const PREFIX: &str = "BOREALIS_PG_";
const LIBRARY_PREFIX: &str = "borealis_";
/// Settings in the environment, as lines of PostgreSQL's configuration; `None`: there are none, and what an earlier `up` was
/// given stays.
pub fn settings() -> Result<Option<String>> {
    let named = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        name.starts_with(PREFIX).then_some((name, value))
    });
    let named = named.map(|(name, value)| match value.into_string() {
        Ok(value) => Ok((name, value)),
        Err(_) => bail!("{name}: its value is not UTF-8"),
    });
    from_variables(&named.collect::<Result<Vec<_>>>()?)
}

fn from_variables(variables: &[(String, String)]) -> Result<Option<String>> {
    let mut lines = Vec::new();
    for (variable, value) in variables {
        let Some(name) = variable.strip_prefix(PREFIX) else {
            continue;
        };
        let name = name.to_ascii_lowercase();
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') || name.is_empty() {
            bail!("{variable}: no setting of PostgreSQL has such a name");
        }
        let setting = match name.strip_prefix(LIBRARY_PREFIX) {
            Some(library) if LIBRARY_SETTINGS.contains(&library) => format!("borealis.{library}"),
            Some(library) => bail!(
                "{variable}: borealis.{library} cannot be set\nhint:  {} can",
                LIBRARY_SETTINGS.join(", ")
            ),
            None => name,
        };
        if !setting.contains('.') {
            check(variable, &setting)?;
        }
        lines.push(format!("{setting} = {}", quoted(variable, value)?));
    }
    if lines.is_empty() {
        return Ok(None);
    }
    lines.sort();
    Ok(Some(format!(
        "# From the environment of the last `borealis up` that named any.\n{}\n",
        lines.join("\n")
    )))
}

fn check(place: &str, setting: &str) -> Result<()> {
    match refusal(setting) {
        None => Ok(()),
        Some(reason) => bail!("{place}: {setting} is set by Borealis: {reason}\nhint:  leave it away"),
    }
}

/// A value as PostgreSQL's configuration quotes it (guc-file.l, `GUC_scanstr`).
fn quoted(variable: &str, value: &str) -> Result<String> {
    if value.contains(['\n', '\r', '\0']) {
        bail!("{variable}: a setting is one line");
    }
    Ok(format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''")))
}

/// Refuses a settings file that sets what Borealis owns.
pub fn check_file(file: &Path) -> Result<()> {
    match std::fs::read_to_string(file) {
        Ok(text) => check_lines(&file.display().to_string(), &text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

fn check_lines(file: &str, text: &str) -> Result<()> {
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim_start();
        let end = line.find(|letter: char| letter == '=' || letter == '#' || letter.is_whitespace());
        let name = &line[..end.unwrap_or(line.len())];
        if !name.is_empty() {
            check(&format!("{file}, line {number}"), name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(variables: &[(&str, &str)]) -> Result<Option<String>> {
        let owned = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        from_variables(&owned.collect::<Vec<_>>())
    }

    #[test]
    fn variables_become_lines_of_the_configuration() {
        let settings = given(&[
            ("BOREALIS_PG_SHARED_BUFFERS", "1MB"),
            ("BOREALIS_PG_BOREALIS_OVERLAY_SIZE", "2MB"),
            ("BOREALIS_PG_LOG_LINE_PREFIX", r"it's \ %m "),
            ("BOREALIS_PG_SHARED_PRELOAD_LIBRARIES", "pg_stat_statements"),
            ("BOREALIS_LOG", "debug"),
        ]);
        let settings = settings.expect("all are allowed").expect("there are some");
        let lines: Vec<&str> = settings.lines().skip(1).collect();
        let expected = [
            "borealis.overlay_size = '2MB'",
            r"log_line_prefix = 'it''s \\ %m '",
            "shared_buffers = '1MB'",
            "shared_preload_libraries = 'pg_stat_statements'",
        ];
        assert_eq!(lines, expected);
        assert_eq!(given(&[("HOME", "/root")]).expect("nothing to refuse"), None);
    }

    #[test]
    fn what_borealis_owns_is_refused_with_the_reason() {
        for (name, value, said) in [
            ("BOREALIS_PG_FSYNC", "on", "durability"),
            ("BOREALIS_PG_BOREALIS_START_LSN", "0/0", "cannot be set"),
            ("BOREALIS_PG_WORK_MEM", "1MB\nfsync = on", "one line"),
            ("BOREALIS_PG_A B", "1", "such a name"),
        ] {
            let refused = given(&[(name, value)]).expect_err(name).to_string();
            assert!(refused.contains(said) && refused.contains(name), "{refused}");
        }
        check_lines("postgresql.conf", "# fsync = on\n\nwork_mem=4MB\n").expect("a comment sets nothing");
        for text in [
            "work_mem = 4MB\nfsync = off",
            "work_mem = 4MB\n  FSYNC off",
            "\nfsync='on' # why",
        ] {
            let refused = check_lines("postgresql.conf", text).expect_err(text).to_string();
            assert!(
                refused.contains("line 2") && refused.contains("durability"),
                "{refused}"
            );
        }
    }
}
