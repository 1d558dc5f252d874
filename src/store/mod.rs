//! Where a repository's objects live. Write-once objects only: put if absent, ranged get, list, delete.

mod directory;
#[doc(hidden)]
pub mod faulty;
mod key;
#[doc(hidden)]
pub mod memory;
mod steady;

pub use directory::DirectoryStore;
pub use steady::{Steady, may_pass};

/// A store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object is not there.
    #[error("{key} is not in the store {store}")]
    Absent {
        /// The object's key.
        key: String,
        /// The store's name.
        store: String,
    },
    /// The object is there already.
    #[error("{key} is in the store {store} already")]
    Present {
        /// The object's key.
        key: String,
        /// The store's name.
        store: String,
    },
    /// The key is not one that a store may hold.
    #[error("`{0}` is not a valid key")]
    BadKey(String),
    /// Reading or writing failed (no space, read-only, gone ...).
    #[error("cannot {operation} {key} in the store {store}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The object's key.
        key: String,
        /// The store's name.
        store: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A store result.
pub type Result<T> = std::result::Result<T, Error>;

/// An object that is being written; nobody sees it until [`finish`](Upload::finish). Dropping it discards it.
pub trait Upload: Send {
    /// Adds bytes at the end.
    ///
    /// # Errors
    /// No room, or the store failed.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Publishes the object under its key; durable once [`Store::sync`] has returned as well.
    ///
    /// # Errors
    /// [`Error::Present`] when the key is taken; nothing was published.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// A place for write-once objects. Keys are relative paths of `[a-z0-9A-Z._-]` components without leading dots.
pub trait Store: Send + Sync {
    /// What a person calls it.
    fn name(&self) -> String;

    /// Begins a new object.
    ///
    /// # Errors
    /// The key is bad or the store cannot be written.
    fn put_new(&self, key: &str) -> Result<Box<dyn Upload>>;

    /// Makes every finished object durable, with its name. The one barrier before a manifest.
    ///
    /// # Errors
    /// Durability is not certain.
    fn sync(&self) -> Result<()>;

    /// Reads up to `into.len()` bytes from `offset`; returns how many there were.
    ///
    /// # Errors
    /// [`Error::Absent`], or the store failed.
    fn get_range(&self, key: &str, offset: u64, into: &mut [u8]) -> Result<usize>;

    /// The object's length in bytes.
    ///
    /// # Errors
    /// [`Error::Absent`], or the store failed.
    fn size(&self, key: &str) -> Result<u64>;

    /// The keys below a prefix (`packs/`, `manifests/`), sorted.
    ///
    /// # Errors
    /// The store failed.
    fn list(&self, prefix: &str) -> Result<Vec<String>>;

    /// Removes an object; not an error when it is gone.
    ///
    /// # Errors
    /// It is still there.
    fn delete(&self, key: &str) -> Result<()>;

    /// Removes what writers that died left unfinished, and never what a living one writes; returns how many.
    ///
    /// # Errors
    /// The store failed.
    fn clean_leftovers(&self) -> Result<u64> {
        Ok(0)
    }

    /// How many of them there are; removes none.
    ///
    /// # Errors
    /// The store failed.
    fn leftovers(&self) -> Result<u64> {
        Ok(0)
    }
}
