//! The repository: chunks in packs, maps of files, manifests. Knows no database and no volume.
//! docs/repository-format.md has it to the byte.

mod begin;
mod binlogs;
mod commit;
mod damaged;
mod doomed;
mod drills;
mod entry;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hold;
mod keys;
mod live;
mod lookup;
mod manifest;
mod note;
mod occupied;
mod pack;
pub mod prune;
mod read_back;
mod reader;
mod remove;
pub mod repair;
mod running;
mod sealed;
mod section;
mod stored_record;
mod table;
mod used;
pub mod verify;
mod wire;
mod worker;
mod writer;

pub use binlogs::{Join, Link, Segment, SegmentNote};
pub use damaged::{Loss, LostObject};
pub use drills::Drill;
pub use entry::{ChunkClass, Content, Entry, EntryKind, LARGEST_FILE, Metadata, table_order};
pub use hold::Hold;
pub use keys::is_valid_host;
pub use lookup::{Lookup, Place};
pub use manifest::{Digest, Draft, Manifest, Root, SizeFigures};
pub use note::Note;
pub use read_back::ReadBackReport;
pub use reader::{Backup, Entries, Fetcher};
pub use running::{Announcement, RUNNING_STALE, Running};
pub use section::{Piece, SECTION_BYTES, Section, SectionRef};
pub use stored_record::{Brief, StoredRecord};
pub use worker::{SectionBuilder, Worker};
pub use writer::{TableWriter, WorkerFigures, Writer, WriterOptions};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::Kind;
use crate::store::Store;
use crate::units::Id;
use keys::{CONFIG, Keys, MANIFESTS, manifest_key};
use manifest::{FEATURES, FORMAT};

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
    pub(crate) fn damaged(object: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Damaged {
            object: object.into(),
            reason: reason.into(),
        }
    }

    /// Whether an object is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Error::Store(crate::store::Error::Absent { .. }))
    }

    /// The object that it is about, and what is wrong with it.
    pub fn object_and_reason(&self) -> (String, String) {
        verify::describe(self)
    }

    /// What it means to the caller. An object that is missing although something refers to it is damage.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Damaged { .. } | Error::Store(crate::store::Error::Absent { .. }) => Kind::Damaged,
            Error::NotFound(_) | Error::Unusable(_) => Kind::Usage,
            Error::Store(_) => Kind::Failed,
        }
    }
}

/// A repository result.
pub type Result<T> = std::result::Result<T, Error>;

/// The object `config`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Config {
    format: u32,
    features: Vec<String>,
    repository: Id,
    /// The key of all hashes: two repositories share no hash, so neither tells of the other's content.
    hash_key: Digest,
}

/// Manifests are read by so many threads, and by one where there are few.
const READERS: usize = 8;
const FEW: usize = 16;
/// Bytes from which on a manifest counts as large, and what all large ones may have together where all are read: some 50 with checksums of 100,000 tables.
const LARGE: u64 = 1 << 20;
const LARGE_TOGETHER: u64 = 512 << 20;

/// What comes after the host in a manifest's key: its time and id.
fn named_time(key: &str) -> String {
    key.rsplit('/').next().unwrap_or_default().to_owned()
}

/// An open repository. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    store: Arc<dyn Store>,
    keys: Keys,
    id: Id,
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
    pub fn create(store: Arc<dyn Store>) -> Result<Repository> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)
            .map_err(|error| Error::Unusable(format!("the kernel has no random numbers: {error}")))?;
        let config = Config {
            format: FORMAT,
            features: features(),
            repository: Id::random(),
            hash_key: Digest(key),
        };
        let sealed = sealed::seal(&config, |json| blake3::hash(json).into())?;
        match sealed::put(&*store, CONFIG, &sealed) {
            Err(crate::store::Error::Present { .. }) => {
                return Err(Error::Unusable(format!(
                    "there is a repository in {} already; it is left as it is",
                    store.name()
                )));
            }
            put => put?,
        }
        store.sync()?;
        Repository::open(store)
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// There is none, it is damaged, or it needs a newer program.
    pub fn open(store: Arc<dyn Store>) -> Result<Repository> {
        // One input/output error is no verdict on anything.
        let store: Arc<dyn Store> = Arc::new(crate::store::Steady::new(store));
        let bytes = match sealed::read(&*store, CONFIG) {
            Err(Error::Store(crate::store::Error::Absent { .. })) => {
                let name = store.name();
                return Err(Error::NotFound(format!(
                    "there is no repository in {name}: is its disk mounted? For a new one `snapback init` makes it"
                )));
            }
            read => read?,
        };
        let json = sealed::unseal(&bytes, |json| blake3::hash(json).into())
            .map_err(|reason| Error::damaged(CONFIG, reason))?;
        check_version(CONFIG, json)?;
        let config: Config = sealed::parse(CONFIG, json)?;
        Ok(Repository {
            store,
            keys: Keys::new(&config.hash_key.0),
            id: config.repository,
        })
    }

    /// Whether objects can be written, by beginning some and leaving them: nothing is published.
    ///
    /// # Errors
    /// The store is read-only, or gone, or it is not ours to write.
    pub fn try_writing(&self) -> Result<()> {
        for key in ["packs/probe", "manifests/probe"] {
            drop(self.store.put_new(key)?);
        }
        Ok(())
    }

    /// The repository's identifier.
    pub fn id(&self) -> Id {
        self.id
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Every backup, oldest first; damaged manifests are listed as such. One that was forgotten between the listing and its reading is no backup any more.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let keys = self.manifest_keys()?;
        let large = AtomicU64::new(0);
        let read = |keys: &[String]| -> Vec<Listed> {
            let one = |key: &String| match self.one_of_many(key, &large) {
                Err(Error::Store(crate::store::Error::Absent { .. })) => None,
                manifest => Some(Listed {
                    manifest,
                    key: key.clone(),
                }),
            };
            keys.iter().filter_map(one).collect()
        };
        // A store answers many small reads at once far sooner than one after the other.
        let mut listed: Vec<Listed> = std::thread::scope(|scope| {
            let parts = keys.chunks(keys.len().div_ceil(READERS).max(FEW));
            let threads: Vec<_> = parts.map(|part| scope.spawn(move || read(part))).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .flat_map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        // By the name's time, which is there even when the manifest cannot be read.
        listed.sort_by_cached_key(|one| {
            (
                one.manifest.as_ref().ok().map(|manifest| manifest.time),
                named_time(&one.key),
            )
        });
        Ok(listed)
    }

    /// The keys of all manifests, read or not, oldest first (to the second).
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn manifest_keys(&self) -> Result<Vec<String>> {
        let mut keys = self.store.list(MANIFESTS)?;
        keys.sort_by_cached_key(|key| named_time(key));
        Ok(keys)
    }

    /// Opens the backup of one of [`Repository::manifest_keys`].
    ///
    /// # Errors
    /// The manifest is gone or damaged.
    pub fn open_manifest(&self, key: &str) -> Result<Backup> {
        Ok(Backup::new(self, self.manifest(key)?))
    }

    /// The newest manifest that can be read; only as many are read as it takes.
    fn newest(&self, keys: &[String]) -> Option<Manifest> {
        let mut newest: Option<(&str, Manifest)> = None;
        for key in keys.iter().rev() {
            let second = named_time(key);
            let second = second.split('-').next().unwrap_or_default();
            if newest
                .as_ref()
                .is_some_and(|(key, _)| !named_time(key).starts_with(second))
            {
                break;
            }
            let Ok(manifest) = self.manifest(key) else { continue };
            if newest.as_ref().is_none_or(|(_, known)| known.time < manifest.time) {
                newest = Some((key, manifest));
            }
        }
        newest.map(|(_, manifest)| manifest)
    }

    /// Reads one of all manifests. `large` is what large ones have in bytes, together: each may be read by itself, and all are kept in memory.
    fn one_of_many(&self, key: &str, large: &AtomicU64) -> Result<Manifest> {
        let size = self.store.size(key)?;
        if size > LARGE && large.fetch_add(size, Ordering::Relaxed).saturating_add(size) > LARGE_TOGETHER {
            return Err(Error::damaged(
                key,
                format!(
                    "it has {size} bytes, and all large manifests together more than {LARGE_TOGETHER}, which nobody's are"
                ),
            ));
        }
        self.manifest(key)
    }

    /// Reads and verifies one manifest.
    fn manifest(&self, key: &str) -> Result<Manifest> {
        let bytes = sealed::read(&*self.store, key)?;
        let json =
            sealed::unseal(&bytes, |json| self.keys.manifest(json)).map_err(|reason| Error::damaged(key, reason))?;
        check_version(key, json)?;
        let manifest: Manifest = sealed::parse(key, json)?;
        if manifest.repository != self.id || manifest_key(&manifest.host, manifest.time, manifest.id) != key {
            return Err(Error::damaged(key, "it belongs to another repository or another name"));
        }
        if manifest.tags.len() > manifest::MOST_TAGS {
            return Err(Error::damaged(key, "it has more tags than a backup can have"));
        }
        Ok(manifest)
    }

    /// Opens the backup that `which` names: `latest` (of all hosts; [`crate::job::choose`] knows jobs apart), an id, or a unique prefix of one (4 digits at least).
    ///
    /// # Errors
    /// None or several fit, or the manifest is damaged.
    pub fn find(&self, which: &str) -> Result<Backup> {
        let keys = self.manifest_keys()?;
        if which == "latest" {
            let missing = || Error::NotFound(format!("there is no readable backup in {}", self.store.name()));
            return self
                .newest(&keys)
                .map(|manifest| Backup::new(self, manifest))
                .ok_or_else(missing);
        }
        if which.len() < 4 || !which.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(Error::NotFound(format!(
                "`{which}` names no backup: give `latest`, an id, or at least 4 digits of one"
            )));
        }
        let which = which.to_ascii_lowercase();
        let named = |key: &str| key.rsplit('-').next().is_some_and(|id| id.starts_with(&which));
        let mut fitting: Vec<String> = keys.into_iter().filter(|key| named(key)).collect();
        match (fitting.pop(), fitting.is_empty()) {
            (Some(key), true) => self.open_manifest(&key),
            (Some(_), false) => Err(Error::NotFound(format!(
                "`{which}` fits several backups: give more digits"
            ))),
            (None, _) => Err(Error::NotFound(format!(
                "no backup's id begins with `{which}`: `snapback list` shows them"
            ))),
        }
    }

    /// Removes unfinished objects of writers that are dead; returns how many.
    ///
    /// # Errors
    /// The store failed.
    pub fn clean_leftovers(&self) -> Result<u64> {
        Ok(self.store.clean_leftovers()?)
    }
}

#[cfg(test)]
mod bounds;

fn features() -> Vec<String> {
    FEATURES.map(str::to_owned).to_vec()
}

/// Looked at before the rest is parsed: a newer format may have other fields.
fn check_version(object: &str, json: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
        features: Vec<String>,
    }
    let version: Version = sealed::parse(object, json)?;
    if version.format != FORMAT {
        return Err(Error::Unusable(format!(
            "{object} has format {}; this program reads format {FORMAT}: use a newer snapback",
            version.format
        )));
    }
    match version
        .features
        .iter()
        .find(|feature| !FEATURES.contains(&feature.as_str()))
    {
        Some(unknown) => Err(Error::Unusable(format!(
            "{object} needs the feature `{unknown}`: use a newer snapback"
        ))),
        None => Ok(()),
    }
}
