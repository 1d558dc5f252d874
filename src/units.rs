//! Units that the whole crate shares: byte counts, identifiers, durations in microseconds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A number of bytes; prints as `1.5 GiB`, parses `64KiB`, `10MB`, `4096`.
pub type Bytes = bytesize::ByteSize;

/// Sixteen random bytes that name a run, a backup, a pack or a repository; 32 hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; 16]);

impl Id {
    /// A new identifier from the kernel's random source.
    pub fn random() -> Id {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .expect("the kernel's random source cannot fail once the machine is up (getrandom(2))");
        Id(bytes)
    }

    /// The first eight digits: what people see and type.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an identifier: 32 lower-case hexadecimal digits are expected")]
pub struct BadId(String);

impl FromStr for Id {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Id, BadId> {
        let bad = || BadId(text.chars().take(64).collect());
        let digits = text.as_bytes();
        if digits.len() != 32 || !digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Id(bytes))
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A duration in whole microseconds, as the manifest keeps every time span.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A time span for people: `480 µs`, `12.3 ms`, `4.21 s`, `3m 05s`.
pub fn human_micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        1_000_000..60_000_000 => format!("{:.2} s", us as f64 / 1e6),
        _ => {
            let seconds = us / 1_000_000;
            match seconds / 3600 {
                0 => format!("{}m {:02}s", seconds / 60, seconds % 60),
                hours => format!("{hours}h {:02}m", seconds % 3600 / 60),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text() {
        let id = Id::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.short().len(), 8);
    }

    #[test]
    fn a_text_that_is_no_id_is_refused() {
        for text in ["", "abc", &"g".repeat(32), &"A".repeat(32), &"é".repeat(16)] {
            assert!(text.parse::<Id>().is_err(), "{text}");
        }
    }

    #[test]
    fn spans_read_well() {
        assert_eq!(human_micros(480), "480 µs");
        assert_eq!(human_micros(12_345), "12.3 ms");
        assert_eq!(human_micros(4_210_000), "4.21 s");
        assert_eq!(human_micros(185_000_000), "3m 05s");
    }
}
