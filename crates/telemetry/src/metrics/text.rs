//! Prometheus' text format, version 0.0.4.
//!
//! Every metric of a table is told with its `HELP` and `TYPE` lines, also one that has no sample just now; buckets of a
//! histogram are cumulative, and its last bucket is its count.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Description, Sampled, Table, Unit};

/// Samples of one metric that was looked up, at most: a bound for what has a label for each of many things.
const SAMPLES_MAX: usize = 10_000;

/// One answer in the making.
#[derive(Debug, Default)]
pub struct Scrape {
    text: String,
    /// Lines of the sampled metrics, by name, and how many there are.
    looked_up: BTreeMap<&'static str, (String, usize)>,
}

/// The text of all metrics of the tables. `look_up` sets the values of the sampled ones.
pub fn exposition(tables: &[&Table], look_up: impl FnOnce(&mut Scrape)) -> String {
    let mut scrape = Scrape::default();
    look_up(&mut scrape);
    for metric in tables.iter().flat_map(|table| table.iter()) {
        let description = metric.description();
        scrape.header(&description);
        metric.write(&mut scrape);
    }
    scrape.text
}

impl Scrape {
    /// The value of a sampled metric, with the values of its labels in the order of its declaration. Durations are in
    /// nanoseconds.
    pub fn set(&mut self, metric: &Sampled, label_values: &[&str], value: u64) {
        let description = &metric.description;
        let (lines, count) = self.looked_up.entry(description.name).or_default();
        if *count < SAMPLES_MAX {
            *count += 1;
            write_sample(lines, description, label_values, value);
        }
    }

    /// The same, of a value that may be unknown: then there is no sample.
    pub fn set_known(&mut self, metric: &Sampled, label_values: &[&str], value: Option<u64>) {
        if let Some(value) = value {
            self.set(metric, label_values, value);
        }
    }

    fn header(&mut self, description: &Description) {
        let Description { name, kind, help, .. } = description;
        self.text += "# HELP ";
        self.text += name;
        self.text += " ";
        for character in help.chars() {
            match character {
                '\\' => self.text += "\\\\",
                '\n' => self.text += "\\n",
                other => self.text.push(other),
            }
        }
        self.text += "\n# TYPE ";
        self.text += name;
        self.text += " ";
        self.text += kind.name();
        self.text += "\n";
    }

    pub(super) fn sample(&mut self, description: &Description, label_values: &[&str], value: u64) {
        write_sample(&mut self.text, description, label_values, value);
    }

    pub(super) fn sampled(&mut self, description: &Description) {
        if let Some((lines, _)) = self.looked_up.remove(description.name) {
            self.text += &lines;
        }
    }

    /// `counts` are those between two bounds, and last those above all.
    pub(super) fn histogram(&mut self, description: &Description, bounds: &[u64], counts: &[u64], sum: u64) {
        let Description { name, unit, .. } = description;
        let mut total = 0;
        let bounds = bounds.iter().map(|bound| number(*unit, *bound));
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(counts) {
            total += count;
            line(&mut self.text, format_args!("{name}_bucket{{le=\"{bound}\"}} {total}"));
        }
        let sum = number(*unit, sum);
        line(&mut self.text, format_args!("{name}_sum {sum}\n{name}_count {total}"));
    }
}

fn line(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("a string takes everything");
    out.push('\n');
}

fn write_sample(out: &mut String, description: &Description, label_values: &[&str], value: u64) {
    let Description { name, unit, labels, .. } = description;
    assert_eq!(labels.len(), label_values.len(), "labels of {name}");
    *out += name;
    for (at, (label, value)) in labels.iter().zip(label_values).enumerate() {
        *out += if at == 0 { "{" } else { "," };
        *out += label;
        *out += "=\"";
        for character in value.chars() {
            match character {
                '\\' => *out += "\\\\",
                '"' => *out += "\\\"",
                '\n' => *out += "\\n",
                other => out.push(other),
            }
        }
        *out += "\"";
    }
    *out += if labels.is_empty() { " " } else { "} " };
    *out += &number(*unit, value);
    out.push('\n');
}

/// A number in base units, without loss and without needless zeros.
fn number(unit: Unit, value: u64) -> String {
    const PER_SECOND: u64 = 1_000_000_000;
    match unit {
        Unit::One => value.to_string(),
        Unit::Nanoseconds if value.is_multiple_of(PER_SECOND) => (value / PER_SECOND).to_string(),
        Unit::Nanoseconds => {
            let number = format!("{}.{:09}", value / PER_SECOND, value % PER_SECOND);
            number.trim_end_matches('0').to_owned()
        }
    }
}
