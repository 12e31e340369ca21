use super::*;

crate::metrics! {
    /// What the golden text tells.
    GOLDEN;
    /// Sacks
    /// with a \ in them.
    SACKS: Counter = Counter::new("mill_sacks_total");
    /// Sacks by grain.
    BY_GRAIN: CounterBy<2> = CounterBy::new("mill_sacks_ground_total", &["grain"], ["rye", "oats"]);
    /// Millers at work.
    MILLERS: Gauge = Gauge::new("mill_millers");
    /// How long a sack takes.
    GRIND: Histogram<3> = Histogram::new("mill_grind_seconds", crate::metrics::Unit::Nanoseconds, &[500_000, 1_000_000_000, 2_500_000_000]);
    /// Sacks that wait.
    WAITING: Sampled = Sampled::gauge("mill_sacks_waiting", &["grain", "owner"]);
    /// What nobody knows.
    UNKNOWN: Sampled = Sampled::gauge("mill_secrets", &[]);
}

const TEXT: &str = r#"# HELP mill_sacks_total Sacks with a \\ in them.
# TYPE mill_sacks_total counter
mill_sacks_total 3
# HELP mill_sacks_ground_total Sacks by grain.
# TYPE mill_sacks_ground_total counter
mill_sacks_ground_total{grain="rye"} 0
mill_sacks_ground_total{grain="oats"} 18446744073709551615
# HELP mill_millers Millers at work.
# TYPE mill_millers gauge
mill_millers 1
# HELP mill_grind_seconds How long a sack takes.
# TYPE mill_grind_seconds histogram
mill_grind_seconds_bucket{le="0.0005"} 2
mill_grind_seconds_bucket{le="1"} 3
mill_grind_seconds_bucket{le="2.5"} 3
mill_grind_seconds_bucket{le="+Inf"} 4
mill_grind_seconds_sum 4.000500001
mill_grind_seconds_count 4
# HELP mill_sacks_waiting Sacks that wait.
# TYPE mill_sacks_waiting gauge
mill_sacks_waiting{grain="rye",owner="the \"old\" \\ miller\nand his wife"} 7
mill_sacks_waiting{grain="",owner="é"} 0
# HELP mill_secrets What nobody knows.
# TYPE mill_secrets gauge
"#;

#[test]
fn the_text_is_as_prometheus_reads_it() {
    SACKS.increment();
    SACKS.add(2);
    BY_GRAIN.add(1, u64::MAX);
    let held = [MILLERS.hold(), MILLERS.hold()];
    drop(held.into_iter().next());
    MILLERS.set(0);
    let _one = MILLERS.hold();
    for nanoseconds in [0, 500_000, 500_001] {
        GRIND.observe(nanoseconds);
    }
    GRIND.observe_duration(Duration::from_micros(3_999_500));
    let text = exposition(&[GOLDEN], |scrape| {
        scrape.set(&WAITING, &["rye", "the \"old\" \\ miller\nand his wife"], 7);
        scrape.set(&WAITING, &["", "é"], 0);
        scrape.set_known(&UNKNOWN, &[], None);
    });
    assert_eq!(text, TEXT);
}

#[test]
fn an_observation_counts_from_the_bound_that_it_equals() {
    static SIZES: Histogram<9> = Histogram::bytes("mill_sack_bytes", "Bytes of a sack.");
    for size in [256, 257, 16 << 20, (16 << 20) + 1] {
        SIZES.observe(size);
    }
    let table: &Table = &[&SIZES];
    let text = exposition(&[table], |_| ());
    for line in [
        "{le=\"256\"} 1\n",
        "{le=\"1024\"} 2\n",
        "{le=\"16777216\"} 3\n",
        "{le=\"+Inf\"} 4\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn bounds_rise() {
    assert!(SECONDS.is_sorted_by(|one, next| one < next));
    assert!(BYTES.is_sorted_by(|one, next| one < next));
}

#[test]
fn samples_of_one_metric_are_bounded() {
    let text = exposition(&[GOLDEN], |scrape| {
        for number in 0..20_000 {
            scrape.set(&WAITING, &[&number.to_string(), ""], 1);
        }
    });
    assert_eq!(text.matches("mill_sacks_waiting{").count(), 10_000);
}
