//! How large a thick snapshot is made, in the configuration's words.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// How large the copy-on-write space of a thick snapshot is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CowSize {
    /// From what is expected to be written meanwhile (docs/configuration.md).
    #[default]
    Auto,
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the origin's size.
    Percent(u64),
}

impl FromStr for CowSize {
    type Err = String;

    fn from_str(text: &str) -> Result<CowSize, String> {
        let wrong = || format!("`{text}` is neither `auto`, nor a size such as `10GiB`, nor a part such as `20%`");
        if text == "auto" {
            return Ok(CowSize::Auto);
        }
        match text.strip_suffix('%') {
            Some(percent) => match percent.trim().parse() {
                Ok(percent @ 1..=200) => Ok(CowSize::Percent(percent)),
                _ => Err(wrong()),
            },
            None => match text.parse::<Bytes>() {
                Ok(bytes) if bytes.as_u64() > 0 => Ok(CowSize::Bytes(bytes.as_u64())),
                _ => Err(wrong()),
            },
        }
    }
}

impl fmt::Display for CowSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CowSize::Auto => f.write_str("auto"),
            CowSize::Bytes(bytes) => write!(f, "{}", Bytes::b(*bytes)),
            CowSize::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for CowSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CowSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<CowSize, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<CowSize>();
        assert_eq!(read("auto"), Ok(CowSize::Auto));
        assert_eq!(read("10GiB"), Ok(CowSize::Bytes(10 << 30)));
        assert_eq!(read("20%"), Ok(CowSize::Percent(20)));
        for wrong in ["", "some", "0%", "-1%", "0", "500%"] {
            assert!(read(wrong).unwrap_err().contains("auto"), "{wrong}");
        }
    }
}
