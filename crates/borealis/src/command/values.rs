//! Numbers as people write them on the command line.

use volume::retention::WINDOW_MAX;

use crate::layout::Ports;

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

/// Each daemon of a cluster takes two ports, and a new writer takes new ones.
const PORTS_COUNT_MIN: u16 = 32;

/// A range of ports, such as 20000-20099.
pub fn ports(text: &str) -> Result<Ports, String> {
    let read = |number: &str| number.trim().parse::<u16>().ok().filter(|port| 0 < *port);
    let range = text.split_once('-').and_then(|(first, last)| {
        let (first, last) = (read(first)?, read(last)?);
        (first <= last && PORTS_COUNT_MIN <= (last - first).saturating_add(1)).then_some(Ports { first, last })
    });
    range.ok_or_else(|| format!("first and last of at least {PORTS_COUNT_MIN} ports, such as 20000-20099"))
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
    fn a_range_of_ports_has_room_for_a_cluster() {
        let first_to_last = |text| ports(text).map(|ports| (ports.first, ports.last));
        assert_eq!(first_to_last("20000-20099"), Ok((20_000, 20_099)));
        assert_eq!(first_to_last("1-65535"), Ok((1, 65_535)));
        for text in ["", "20000", "20000-20030", "20099-20000", "0-100", "20000-70000", "a-b"] {
            assert!(ports(text).is_err(), "{text}");
        }
    }

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
