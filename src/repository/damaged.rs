//! Backups that lost something: `repair` writes it down, `list`, `show` and `restore` say it.

use serde::{Deserialize, Serialize};

use super::keys::DAMAGED;
use super::{Note, Repository, Result};
use crate::units::Id;

/// What a backup lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The backup.
    pub backup: Id,
    /// The objects that it misses something of.
    pub objects: Vec<LostObject>,
}

/// An object that is lost or lost something, and what that means for a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostObject {
    /// Its key.
    pub object: String,
    /// What was found.
    pub reason: String,
    /// How many files cannot be restored whole.
    pub files: u64,
    /// It could not be read, which may pass: a check that reads it well takes the note back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unread: bool,
}

impl LostObject {
    /// Whether what was found may pass. Older programs did not say so but in the system's words.
    pub(super) fn may_pass(&self) -> bool {
        self.unread || self.reason.contains("(os error 5)")
    }
}

impl Repository {
    /// Writes down what a backup lost.
    pub(super) fn note_loss(&self, loss: Loss) -> Result<()> {
        let key = format!("{DAMAGED}{}/{}", loss.backup, Id::random());
        self.put_note(&key, jiff::Timestamp::now(), loss)
    }

    /// What is known to be lost, for each backup. A damaged note counts as a loss of nobody knows what.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn losses(&self) -> Result<Vec<Loss>> {
        self.losses_below(DAMAGED)
    }

    /// What is known to be lost of one backup; empty when it is whole as far as anybody knows.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn losses_of(&self, backup: Id) -> Result<Vec<Loss>> {
        self.losses_below(&format!("{DAMAGED}{backup}/"))
    }

    fn losses_below(&self, prefix: &str) -> Result<Vec<Loss>> {
        let losses = self.notes::<Loss>(prefix)?.into_iter().filter_map(|(key, note)| {
            let backup = super::hold::subject_of(&key, DAMAGED)?;
            let objects = note.map_or_else(
                |error| {
                    let (object, reason) = error.object_and_reason();
                    let files = 0;
                    let unread = false;
                    vec![LostObject {
                        object,
                        reason,
                        files,
                        unread,
                    }]
                },
                |note: Note<Loss>| note.body.objects,
            );
            Some(Loss { backup, objects })
        });
        Ok(losses.collect())
    }
}
