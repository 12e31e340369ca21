//! Numbers as people write them on the command line.

use volume::retention::WINDOW_MAX;

/// A number of bytes, or of KiB, MiB, GiB or TiB.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" | "kB" => 10,
        "MiB" | "MB" => 20,
        "GiB" | "GB" => 30,
        "TiB" | "TB" => 40,
        _ => return Err("a number, and B, KiB, MiB, GiB or TiB".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "not a number of bytes".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too many bytes".to_owned())
}

/// What `--replace-after` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplaceAfter {
    /// `None`: never.
    pub seconds: Option<u64>,
}

/// What `--replace-after` takes.
pub fn replace_after(text: &str) -> Result<ReplaceAfter, String> {
    if text == "never" {
        return Ok(ReplaceAfter { seconds: None });
    }
    match seconds(text) {
        Some(seconds) if 0 < seconds => Ok(ReplaceAfter { seconds: Some(seconds) }),
        _ => Err("a number with s, m or h behind it, such as 10m, or never".to_owned()),
    }
}

/// `on` or `off`.
pub fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".to_owned()),
    }
}

/// A retention window, in seconds.
pub fn retention(text: &str) -> Result<u64, String> {
    let window = if text == "0" { Some(0) } else { seconds(text) };
    let fits = |seconds: &u64| *seconds <= WINDOW_MAX.as_secs();
    window
        .filter(fits)
        .ok_or_else(|| "0, or a number with s, m or h behind it, such as 10m, up to 72h".to_owned())
}

fn seconds(text: &str) -> Option<u64> {
    let units = [("s", 1), ("m", 60), ("h", 3600)];
    let read = |(unit, seconds): (&str, u64)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(seconds);
    units.into_iter().find_map(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        let seconds = |text: &str| replace_after(text).map(|after| after.seconds);
        assert_eq!(seconds("90s"), Ok(Some(90)));
        assert_eq!(seconds("10m"), Ok(Some(600)));
        assert_eq!(seconds("never"), Ok(None));
        for wrong in [
            "10",
            "0s",
            "",
            "m",
            "-1s",
            "99999999999999999999h",
            "9999999999999999999h",
        ] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_window_has_an_end() {
        assert_eq!(retention("0"), Ok(0));
        assert_eq!(retention("0s"), Ok(0));
        assert_eq!(retention("10m"), Ok(600));
        assert_eq!(retention("72h"), Ok(72 * 3600));
        for wrong in ["73h", "10", "", "never", "-1s", "1d"] {
            assert!(retention(wrong).is_err(), "{wrong}");
        }
    }
}
