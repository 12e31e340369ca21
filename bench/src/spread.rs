//! What several rounds say together.

/// The least, the middle and the most of some values.
pub struct Spread {
    /// The least.
    pub least: f64,
    /// The median.
    pub median: f64,
    /// The most.
    pub most: f64,
}

/// `None`: there are no values.
pub fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = match sorted.len() {
        0 => return None,
        count if count % 2 == 1 => sorted[count / 2],
        count => (sorted[count / 2 - 1] + sorted[count / 2]) / 2.0,
    };
    Some(Spread {
        least: sorted[0],
        median,
        most: sorted[sorted.len() - 1],
    })
}

/// The median; of no values, not a number.
pub fn median(values: &[f64]) -> f64 {
    spread(values).map_or(f64::NAN, |spread| spread.median)
}
