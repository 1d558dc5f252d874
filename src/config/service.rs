//! How the server is stopped and started again: by its unit, or by commands.

use serde::{Deserialize, Serialize};

use super::Span;

/// The server's service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    /// systemd's unit, such as `mariadb`.
    pub name: Option<String>,
    /// The command that stops it instead, word by word; it returns when the server has ended, or soon.
    #[serde(deserialize_with = "words")]
    pub stop: Vec<String>,
    /// The command that starts it instead.
    #[serde(deserialize_with = "words")]
    pub start: Vec<String>,
    /// The longest that either may take, until the server has ended or answers.
    pub limit: Span,
}

/// A command, word by word: no shell takes it apart.
pub(super) fn words<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Words;

    impl<'de> serde::de::Visitor<'de> for Words {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of words, such as `[/usr/local/sbin/stop-db, --quick]`")
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut words = Vec::new();
            while let Some(word) = list.next_element()? {
                words.push(word);
            }
            Ok(words)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }
    }

    deserializer.deserialize_any(Words)
}

impl Default for Service {
    fn default() -> Service {
        Service {
            name: None,
            stop: Vec::new(),
            start: Vec::new(),
            limit: Span(jiff::SignedDuration::from_mins(5)),
        }
    }
}

impl Service {
    /// What is wrong with it: a key and the reason.
    pub fn wrong(&self) -> Option<(&'static str, &'static str)> {
        let absolute = |words: &[String]| words.first().is_none_or(|word| word.starts_with('/'));
        if self.name.is_some() && !(self.stop.is_empty() && self.start.is_empty()) {
            return Some(("service", "has either a name, or the commands stop and start"));
        }
        if self.stop.is_empty() != self.start.is_empty() {
            return Some(("service", "needs both commands, stop and start"));
        }
        if !absolute(&self.stop) || !absolute(&self.start) {
            return Some(("service", "must name its commands' programs by absolute paths"));
        }
        (self.limit.0.as_secs() < 1).then_some(("service.limit", "must be at least 1s"))
    }

    /// The command that stops it, as a person types it.
    pub fn stopping(&self) -> Option<String> {
        let unit = self.name.as_ref().map(|name| format!("systemctl stop {name}"));
        unit.or_else(|| (!self.stop.is_empty()).then(|| self.stop.join(" ")))
    }

    /// The command that starts it, as a person types it.
    pub fn starting(&self) -> Option<String> {
        let unit = self.name.as_ref().map(|name| format!("systemctl start {name}"));
        unit.or_else(|| (!self.start.is_empty()).then(|| self.start.join(" ")))
    }

    /// Whether it says how.
    pub fn is_set(&self) -> bool {
        self.name.is_some() || !self.stop.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_unit_or_two_commands() {
        let wrong = |text: &str| Config::parse(text).unwrap_err().to_string();
        assert!(Config::parse("service: {name: mariadb}").unwrap().service.is_set());
        let both = Config::parse("service: {stop: [/bin/a, -x], start: [/bin/b], limit: 10s}").unwrap();
        assert_eq!(both.service.stop, ["/bin/a", "-x"]);
        assert_eq!(both.service.starting().as_deref(), Some("/bin/b"));
        let unit = Config::parse("service: {name: mariadb@shop}").unwrap().service;
        assert_eq!(unit.starting().as_deref(), Some("systemctl start mariadb@shop"));
        assert_eq!(crate::config::Service::default().starting(), None);
        assert!(wrong("service: {name: mariadb, stop: [/a], start: [/b]}").contains("either a name"));
        assert!(wrong("service: {stop: [/a]}").contains("both commands"));
        let said = wrong("service: {stop: /bin/a, start: [/bin/b]}");
        assert!(said.contains("a list of words"), "{said}");
        assert_eq!(both.service.stopping().as_deref(), Some("/bin/a -x"));
        assert!(wrong("service: {stop: [a], start: [b]}").contains("absolute"));
        assert!(wrong("service: {name: x, limit: 10ms}").contains("at least 1s"));
        assert!(!Config::default().service.is_set());
    }
}
