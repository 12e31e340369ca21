//! Names of clusters, volumes, groups, segments and zones.

use std::fmt;
use std::str::FromStr;

/// The text is not an identity of 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseIdentityError(String);

impl fmt::Display for ParseIdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not an identity of 32 hexadecimal digits", self.0)
    }
}

impl std::error::Error for ParseIdentityError {}

macro_rules! random_identity {
    ($(#[$documentation:meta])* $name:ident) => {
        $(#[$documentation])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// From sixteen random bytes, or from the sixteen bytes a file or message holds.
            pub const fn from_bytes(bytes: [u8; 16]) -> $name {
                $name(bytes)
            }

            /// The sixteen bytes.
            pub const fn bytes(self) -> [u8; 16] {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdentityError;

            fn from_str(text: &str) -> Result<$name, ParseIdentityError> {
                let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                digits
                    .then(|| u128::from_str_radix(text, 16).ok())
                    .flatten()
                    .map(|number| $name(number.to_be_bytes()))
                    .ok_or_else(|| ParseIdentityError(text.to_owned()))
            }
        }
    };
}

random_identity! {
    /// A cluster: everything under one `--dir`. Made at creation, checked in every handshake.
    ClusterId
}
random_identity! {
    /// A volume. Between volumes a place in the log is (volume, epoch, LSN).
    VolumeId
}
random_identity! {
    /// One copy of one protection group. Random, and kept in the copy's own files: a node that comes back without its
    /// files is not that segment any more.
    SegmentId
}

/// A protection group within its volume. Group 0 takes part in every flush.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupId(u32);

impl GroupId {
    /// The group whose chain is the volume's chain, and which holds the catalog.
    pub const FIRST: GroupId = GroupId(0);

    /// The group with this number.
    #[inline]
    pub const fn from_raw(raw: u32) -> GroupId {
        GroupId(raw)
    }

    /// Its number.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {}", self.0)
    }
}

/// What a segment keeps. It has one kind for life, and is replaced by one of its kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum SegmentKind {
    /// Log and pages.
    #[default]
    Full,
    /// Log only, until every full segment of the group has it.
    Tail,
}

impl fmt::Display for SegmentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SegmentKind::Full => "full",
            SegmentKind::Tail => "tail",
        })
    }
}

impl FromStr for SegmentKind {
    type Err = String;

    fn from_str(text: &str) -> Result<SegmentKind, String> {
        match text {
            "full" => Ok(SegmentKind::Full),
            "tail" => Ok(SegmentKind::Tail),
            other => Err(format!("there is no segment {other:?}; a segment is full or tail")),
        }
    }
}

/// A failure domain. Each group has two segments in each of the three.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Zone {
    /// Zone a.
    A,
    /// Zone b.
    B,
    /// Zone c.
    C,
}

impl Zone {
    /// All three, in order.
    pub const ALL: [Zone; 3] = [Zone::A, Zone::B, Zone::C];
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Zone::A => "a",
            Zone::B => "b",
            Zone::C => "c",
        })
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Zone, String> {
        match text {
            "a" => Ok(Zone::A),
            "b" => Ok(Zone::B),
            "c" => Ok(Zone::C),
            other => Err(format!("there is no zone {other:?}; the zones are a, b and c")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_read_back_as_printed() {
        let segment = SegmentId::from_bytes([0x0a; 16]);
        assert_eq!(segment.to_string().parse(), Ok(segment));
        assert!("0a".parse::<SegmentId>().is_err());
        assert!(format!("+{}", "0".repeat(31)).parse::<SegmentId>().is_err());
    }

    #[test]
    fn kinds_read_back_as_printed() {
        for kind in [SegmentKind::Full, SegmentKind::Tail] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("head".parse::<SegmentKind>().is_err());
    }
}
