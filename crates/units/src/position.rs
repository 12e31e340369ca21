//! Where something stands in the log, and in whose reign it was written.

use std::fmt;
use std::str::FromStr;

/// A position in the engine's redo log, in bytes from its beginning. The LSN *of a record* is its end.
///
/// Printed as PostgreSQL prints it (`16/B374D848`), so that a value from our logs can be pasted into `psql`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// Before every record.
    pub const ZERO: Lsn = Lsn(0);
    /// After every record.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// The position `raw` bytes from the beginning of the log.
    #[inline]
    pub const fn from_raw(raw: u64) -> Lsn {
        Lsn(raw)
    }

    /// Bytes from the beginning of the log.
    #[inline]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// `None` when `earlier` is in fact later: the caller decides what that means.
    #[inline]
    pub fn bytes_since(self, earlier: Lsn) -> Option<ByteCount> {
        self.0.checked_sub(earlier.0).map(ByteCount)
    }

    /// The position `bytes` further on; stays at the end of the number line instead of wrapping around.
    #[inline]
    pub fn advanced_by(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_add(bytes))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an LSN such as `16/B374D848`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseLsnError(String);

impl fmt::Display for ParseLsnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a log position such as 16/B374D848", self.0)
    }
}

impl std::error::Error for ParseLsnError {}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Lsn, ParseLsnError> {
        let half = |part: &str| {
            let digits = !part.is_empty() && part.len() <= 8 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            digits.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

/// The number of one writer's reign over a volume. Every message carries it; a segment refuses a lower one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(u64);

impl Epoch {
    /// No reign yet: what a volume has before it is first opened.
    pub const ZERO: Epoch = Epoch(0);

    /// The reign with this number.
    #[inline]
    pub const fn from_raw(raw: u64) -> Epoch {
        Epoch(raw)
    }

    /// Its number.
    #[inline]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The reign after this one.
    #[inline]
    pub fn next(self) -> Epoch {
        Epoch(self.0.checked_add(1).expect("a volume is opened fewer than 2^64 times"))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}", self.0)
    }
}

/// A place in the volume's history: an LSN *on the timeline of an epoch*.
///
/// An LSN alone names nothing, because branches reuse LSNs. Positions order by epoch first; along one path of the
/// timeline tree that is also the order of history, but whether one position is *visible* from another is a question
/// for the `timeline` crate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The reign in which the log at `lsn` was written.
    pub epoch: Epoch,
    /// The end of the record, batch or flush that the position names.
    pub lsn: Lsn,
}

impl Position {
    /// Before everything.
    pub const ZERO: Position = Position {
        epoch: Epoch::ZERO,
        lsn: Lsn::ZERO,
    };

    /// `lsn` as written in `epoch`.
    #[inline]
    pub const fn new(epoch: Epoch, lsn: Lsn) -> Position {
        Position { epoch, lsn }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.lsn, self.epoch)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct ByteCount(pub u64);

impl fmt::Display for ByteCount {
    /// In the largest binary unit that leaves at least one whole: `1.5 MiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        if unit == 0 {
            write!(f, "{} bytes", self.0)
        } else {
            write!(f, "{value:.1} {}", UNITS[unit])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_back_as_postgresql_prints_it() {
        let lsn = Lsn::from_raw(0x16_B374_D848);
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!("16/B374D848".parse(), Ok(lsn));
        assert_eq!("0/0".parse(), Ok(Lsn::ZERO));
        for wrong in ["", "16", "16/", "/1", "16/B374D8480", "x/1", "+1/1"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong:?} was taken for an LSN");
        }
    }

    #[test]
    fn positions_order_by_reign_first() {
        let early = Position::new(Epoch::from_raw(1), Lsn::from_raw(900));
        let late = Position::new(Epoch::from_raw(2), Lsn::from_raw(100));
        assert!(early < late);
        assert_eq!(late.to_string(), "0/64@2");
    }

    #[test]
    fn byte_counts_print_in_the_largest_fitting_unit() {
        assert_eq!(ByteCount(1000).to_string(), "1000 bytes");
        assert_eq!(ByteCount(1536 * 1024).to_string(), "1.5 MiB");
    }
}
