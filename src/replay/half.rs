//! Half a replay: in the journal before anything of it appears, marked as long as it is half, and gone after a failure.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::drill::Space;
use crate::journal::Made;
use crate::restore::unfinished;
use crate::units::Id;

/// The datadir of a replay that is under way.
pub(super) struct Half<'s> {
    space: &'s Space,
    datadir: PathBuf,
}

impl Half<'_> {
    /// Writes down what is about to be made.
    ///
    /// # Errors
    /// The journal cannot be written: nothing may be made.
    pub fn begin<'s>(space: &'s Space, datadir: &Path) -> Result<Half<'s>> {
        let half = Half {
            space,
            datadir: datadir.to_owned(),
        };
        space.journal().record(&half.made())?;
        Ok(half)
    }

    /// What its trees carry.
    pub fn mark(&self) -> String {
        unfinished::text(self.run())
    }

    /// All of it is there, and durable: it is no half any more.
    ///
    /// # Errors
    /// It stays one.
    pub fn whole(&self) -> Result<()> {
        unfinished::lift(self.run(), &self.datadir)?;
        Ok(self.space.journal().undone(&self.made())?)
    }

    /// Takes away what there is of it.
    ///
    /// # Errors
    /// Something is left, which the journal keeps for `cleanup`.
    pub fn remove(&self) -> Result<()> {
        unfinished::remove(self.run(), &self.datadir)?;
        Ok(self.space.journal().undone(&self.made())?)
    }

    fn run(&self) -> Id {
        self.space.journal().run()
    }

    fn made(&self) -> Made {
        Made::Replay {
            at: self.datadir.clone(),
        }
    }
}
