//! `held:`: what `snapback snapshot watch` does about held sets whose storage fills.

use serde::{Deserialize, Serialize};

/// The policy for held sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeldPolicy {
    /// What is done when it is reached.
    pub on_full: OnFull,
    /// From which fill on, in hundredths: of a set's own copy-on-write space, or of the pool that it shares with production.
    pub at: f64,
}

/// What is done about a held set whose storage fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// A person is told.
    #[default]
    Warn,
    /// LVM's copy-on-write space is extended (up to `lvm.cow_limit`) where there is room; else a person is told.
    Extend,
    /// As `extend`; what cannot be extended is removed, the oldest first, so that production's pool does not fill.
    Drop,
}

impl Default for HeldPolicy {
    fn default() -> HeldPolicy {
        HeldPolicy {
            on_full: OnFull::Warn,
            at: 80.0,
        }
    }
}
