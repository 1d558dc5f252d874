//! The run's record as a manifest keeps it: its text. A tree of JSON values takes up to 16 times the memory of its text, and a repository's writer decides what is in it.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// JSON that is only parsed as what somebody looks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoredRecord(Box<RawValue>);

impl PartialEq for StoredRecord {
    fn eq(&self, other: &StoredRecord) -> bool {
        self.0.get() == other.0.get()
    }
}

/// What a list shows of a record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brief {
    /// The consistency, in the record's words.
    #[serde(default)]
    pub consistency: Option<String>,
    /// Whether the position is exact.
    #[serde(default)]
    pub exact: Option<bool>,
}

impl StoredRecord {
    /// Keeps a value's text.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub(crate) fn new(value: &serde_json::Value) -> serde_json::Result<StoredRecord> {
        RawValue::from_string(serde_json::to_string_pretty(value)?).map(StoredRecord)
    }

    /// Parses it; fields that `T` does not have take no memory.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.0.get())
    }

    /// What a list shows; nothing where it is not written in words of ours.
    pub fn brief(&self) -> Brief {
        self.parse().unwrap_or_default()
    }

    /// Whether there was a server.
    pub fn has_server(&self) -> bool {
        #[derive(Deserialize)]
        struct Server {
            #[serde(default)]
            server: Option<IgnoredAny>,
        }
        self.parse::<Server>().is_ok_and(|of| of.server.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(text: &str) -> StoredRecord {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_is_looked_for_is_read_and_what_is_not_ours_is_nothing() {
        let record = stored(r#"{"consistency": "application", "exact": true, "server": {"x": []}, "more": [0, 0]}"#);
        assert_eq!(record.brief().consistency.as_deref(), Some("application"));
        assert_eq!(record.brief().exact, Some(true));
        assert!(record.has_server());
        for other in [r#"{"server": null}"#, "{}", "null", "[]", "3"] {
            assert!(!stored(other).has_server(), "{other}");
            assert_eq!(stored(other).brief(), Brief::default(), "{other}");
        }
    }
}
