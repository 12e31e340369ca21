//! Prometheus' text format, read strictly: whatever the format does not allow is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const PATIENCE: Duration = Duration::from_secs(30);

/// One answer to `GET /metrics`.
#[derive(Debug, Default)]
pub struct Exposition {
    /// Kind of each metric, by its name.
    pub kinds: BTreeMap<String, String>,
    /// Every sample, by its name and labels as they are written, such as `volume_quorum{kind="write"}`.
    pub samples: BTreeMap<String, f64>,
}

/// Asks for `path`; the answer's status and body.
pub fn get(address: &str, path: &str) -> Result<(u16, String)> {
    let address: SocketAddr = address.parse().with_context(|| format!("{address} is no address"))?;
    ensure!(address.ip().is_loopback(), "{address} is not on loopback");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no end of the head")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let length = format!("Content-Length: {}", body.len());
    ensure!(head.split("\r\n").any(|line| line == length), "{length} in {head}");
    Ok((status.with_context(|| head.to_owned())?, body.to_owned()))
}

/// Asks a daemon for its metrics.
pub fn scrape(address: &str) -> Result<Exposition> {
    let (status, text) = get(address, "/metrics")?;
    ensure!(status == 200, "status {status}: {text}");
    Exposition::parse(&text)
}

impl Exposition {
    /// Reads a text.
    pub fn parse(text: &str) -> Result<Exposition> {
        ensure!(text.ends_with('\n'), "the last line ends");
        let mut read = Exposition::default();
        let (mut helped, mut current) = (BTreeSet::new(), None);
        for line in text.lines() {
            let wrong = || format!("line: {line}");
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, _) = help.split_once(' ').with_context(wrong)?;
                ensure!(helped.insert(name.to_owned()), "{name} is told twice");
                current = Some(name.to_owned());
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').with_context(wrong)?;
                ensure!(["counter", "gauge", "histogram"].contains(&kind), wrong());
                ensure!(
                    current.as_deref() == Some(name),
                    "the help of {name} stands before its type"
                );
                read.kinds.insert(name.to_owned(), kind.to_owned());
            } else {
                let (name, labels, value) = sample(line).with_context(wrong)?;
                let family = current.as_deref().with_context(wrong)?;
                let kind = read.kinds.get(family).with_context(wrong)?;
                let suffix = name.strip_prefix(family).with_context(wrong)?;
                let suffixes: &[&str] = match kind.as_str() {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                ensure!(suffixes.contains(&suffix), wrong());
                ensure!(value.is_finite() && 0.0 <= value, wrong());
                ensure!(
                    (suffix == "_bucket") == labels.iter().any(|(label, _)| label == "le"),
                    wrong()
                );
                let key = line.rsplit_once(' ').with_context(wrong)?.0;
                ensure!(read.samples.insert(key.to_owned(), value).is_none(), "twice: {line}");
            }
        }
        read.check_histograms(text)?;
        Ok(read)
    }

    /// Buckets come in the order of their bounds, are cumulative, and the last one is the count.
    fn check_histograms(&self, text: &str) -> Result<()> {
        for (name, _) in self.kinds.iter().filter(|(_, kind)| *kind == "histogram") {
            let prefix = format!("{name}_bucket{{le=\"");
            let (mut bound, mut count) = (f64::NEG_INFINITY, 0.0);
            for line in text.lines().filter_map(|line| line.strip_prefix(&prefix)) {
                let (next, value) = line.split_once("\"} ").with_context(|| line.to_owned())?;
                let (next, value): (f64, f64) = (next.replace("+Inf", "inf").parse()?, value.parse()?);
                ensure!(bound < next && count <= value, "{name}: {line}");
                (bound, count) = (next, value);
            }
            ensure!(bound == f64::INFINITY, "{name} has no last bucket");
            ensure!(
                self.samples.get(&format!("{name}_count")) == Some(&count),
                "{name}: {count}"
            );
            ensure!(self.samples.contains_key(&format!("{name}_sum")), "{name} has no sum");
        }
        Ok(())
    }

    /// The value of one sample, as it is written.
    pub fn value(&self, sample: &str) -> Result<f64> {
        let value = self.samples.get(sample).copied();
        value.with_context(|| format!("no sample {sample} among {:?}", self.samples.keys()))
    }

    /// The sum of all samples of a metric, whatever their labels.
    pub fn total(&self, name: &str) -> f64 {
        let of_name = |sample: &str| sample.split('{').next() == Some(name);
        let samples = self.samples.iter().filter(|(sample, _)| of_name(sample));
        samples.map(|(_, value)| value).sum()
    }
}

type Labels = Vec<(String, String)>;

/// A line such as `name{label="value"} 12`.
fn sample(line: &str) -> Result<(&str, Labels, f64)> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    ensure!(is_name(name), "{name} is no name");
    let mut labels: Labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").context("a label without a value")?;
            ensure!(
                is_name(label) && labels.iter().all(|(known, _)| known != label),
                "label {label}"
            );
            let (value, after) = quoted(after)?;
            labels.push((label.to_owned(), value));
            rest = match after.strip_prefix(',') {
                Some(next) => next,
                None => break rest = after.strip_prefix('}').context("labels without an end")?,
            };
        }
    }
    let value = rest.strip_prefix(' ').context("no value")?;
    Ok((name, labels, value.parse()?))
}

/// A label's value up to its closing quote, and what follows.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                _ => bail!("an escape that is none"),
            },
            other => value.push(other),
        }
    }
    bail!("a value without an end")
}

fn is_name(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.bytes().all(is_inner) && text.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_format_does_not_allow_is_an_error() {
        let good = "# HELP a A \\ b.\n# TYPE a counter\na{b=\"c\\\"}, \\n\\\\\",d=\"\"} 3\na{b=\"x\"} 4\n";
        let read = Exposition::parse(good).expect("as it shall be");
        assert_eq!((read.total("a"), read.value("a{b=\"x\"}").ok()), (7.0, Some(4.0)));
        let head = "# HELP a A.\n# TYPE a histogram\n";
        let histogram = "a_bucket{le=\"1\"} 1\na_bucket{le=\"+Inf\"} 2\na_sum 3\na_count 2\n";
        Exposition::parse(&format!("{head}{histogram}")).expect("a histogram");
        for wrong in [
            "# TYPE a counter\na 1\n",
            "# HELP a A.\na 1\n",
            "# HELP a A.\n# TYPE a thing\n",
            "# HELP a A.\n# TYPE a gauge\na 1",
            "# HELP a A.\n# TYPE a gauge\nb 1\n",
            "# HELP a A.\n# TYPE a gauge\na one\n",
            "# HELP a A.\n# TYPE a gauge\na 1\na 2\n",
            "# HELP a A.\n# TYPE a gauge\na{b=\"c} 1\n",
            "# HELP a A.\n# TYPE a gauge\na{b=\"\\x\"} 1\n",
            "# HELP a A.\n# TYPE a gauge\na{b=\"c\",b=\"d\"} 1\n",
            "# HELP a A.\n# TYPE a gauge\n\n",
            "# HELP a A.\n# HELP a A.\n# TYPE a gauge\n",
        ] {
            assert!(Exposition::parse(wrong).is_err(), "{wrong}");
        }
        for (good, wrong) in [
            ("\"1\"} 1", "\"1\"} 5"),
            ("a_count 2", "a_count 1"),
            ("a_sum 3\n", ""),
            ("+Inf", "0.5"),
        ] {
            let text = format!("{head}{}", histogram.replace(good, wrong));
            assert!(Exposition::parse(&text).is_err(), "{text}");
        }
    }
}
