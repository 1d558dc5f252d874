//! The repository: chunks in packs, maps of files, manifests. Knows no database and no volume.
//! docs/repository-format.md has it to the byte.

use crate::error::Kind;

/// What is stored is damaged, missing, of a newer format, or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// What is stored does not verify.
    #[error("{object} is damaged: {reason}")]
    Damaged {
        /// The object's key in the store.
        object: String,
        /// What does not fit.
        reason: String,
    },
    /// No repository, no such backup, or more than one fits.
    #[error("{0}")]
    NotFound(String),
    /// There is something there already, or the format is newer than this program.
    #[error("{0}")]
    Unusable(String),
}

impl Error {
    /// What it means to the caller.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Damaged { .. } => Kind::Damaged,
            Error::NotFound(_) | Error::Unusable(_) => Kind::Usage,
            Error::Store(_) => Kind::Failed,
        }
    }
}

/// A repository result.
pub type Result<T> = std::result::Result<T, Error>;

mod entry;
mod manifest;
mod reader;
mod section;
mod writer;

pub use entry::{ChunkClass, Content, Entry, EntryKind, Metadata};
pub use manifest::{Draft, Manifest, SizeFigures};
pub use reader::{Backup, Entries, Fetcher};
pub use section::{Piece, Section, SectionRef};
pub use writer::{SectionBuilder, TableWriter, Worker, WorkerFigures, Writer, WriterOptions};

use std::sync::Arc;

use crate::store::Store;
use crate::units::Id;

/// An open repository.
pub struct Repository {
    store: Arc<dyn Store>,
}

/// One line of a listing: a manifest that reads well, or why it does not.
#[derive(Debug)]
pub struct Listed {
    /// The manifest's key in the store.
    pub key: String,
    /// The manifest, or what is wrong with it.
    pub manifest: Result<Manifest>,
}

impl Repository {
    /// Makes a new repository in an empty store.
    ///
    /// # Errors
    /// There is one already, or the store cannot be written.
    pub fn create(_store: Arc<dyn Store>) -> Result<Repository> {
        todo!()
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// There is none, it is damaged, or it needs a newer program.
    pub fn open(_store: Arc<dyn Store>) -> Result<Repository> {
        todo!()
    }

    /// The repository's identifier.
    pub fn id(&self) -> Id {
        todo!()
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Every backup, oldest first; damaged manifests are listed as such.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn list(&self) -> Result<Vec<Listed>> {
        todo!()
    }

    /// Opens the backup that `which` names: `latest`, an id, or a unique prefix of one (4 digits at least).
    ///
    /// # Errors
    /// None or several fit, or the manifest is damaged.
    pub fn find(&self, _which: &str) -> Result<Backup> {
        todo!()
    }

    /// Begins to write a backup. Nothing is visible until [`Writer::commit`].
    ///
    /// # Errors
    /// The parent cannot be read (then the caller goes on without one), or the store cannot be written.
    pub fn begin(&self, _options: WriterOptions) -> Result<Writer> {
        todo!()
    }
}
