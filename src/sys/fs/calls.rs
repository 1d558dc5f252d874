//! A seam for tests at the calls that durability rests on: each is told before it is made, and may be made to fail.
//!
//! Compiled in only with the feature `failpoints`. A test watches one directory; the calls of other tests are not told to it.

/// Tells of a call; the error of whoever watches is returned instead of making it: `told!(Call::..., |error| ...)`.
macro_rules! told {
    ($call:expr, $fail:expr) => {{
        #[cfg(feature = "failpoints")]
        if let Err(error) = $crate::sys::fs::calls::tell(&$call) {
            let fail = $fail;
            return Err(fail(error));
        }
    }};
}
pub(crate) use told;

#[cfg(feature = "failpoints")]
pub use armed::{Call, Watch, tell, watch};

#[cfg(feature = "failpoints")]
mod armed {
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex, PoisonError, RwLock};

    /// A call that changes a filesystem, or makes a change durable.
    #[derive(Debug, Clone, Copy)]
    pub enum Call<'c> {
        /// A new file was opened: without a name in a directory, or with one. (Told after it was made: then it has an inode.)
        Create {
            /// The directory.
            directory: &'c Path,
            /// The file.
            file: &'c File,
            /// Its temporary name, if it has one.
            name: Option<&'c Path>,
        },
        /// write(2) at the file's end.
        Write {
            /// The file.
            file: &'c File,
            /// For which directory it was made.
            near: &'c Path,
            /// The bytes.
            bytes: &'c [u8],
        },
        /// fsync(2) of a file.
        SyncFile {
            /// The file.
            file: &'c File,
            /// The name that it has or will have.
            path: &'c Path,
        },
        /// linkat(2) of a file without a name.
        Link {
            /// The file.
            file: &'c File,
            /// Its new name.
            to: &'c Path,
        },
        /// rename(2), with or without RENAME_NOREPLACE.
        Rename {
            /// The old name.
            from: &'c Path,
            /// The new name.
            to: &'c Path,
        },
        /// mkdir(2).
        MakeDirectory {
            /// The directory.
            path: &'c Path,
        },
        /// fsync(2) of a directory.
        SyncDirectory {
            /// The directory.
            path: &'c Path,
        },
        /// unlink(2).
        Remove {
            /// The name.
            path: &'c Path,
        },
    }

    impl Call<'_> {
        /// The path by which a watcher knows that the call is about its directory.
        pub fn path(&self) -> &Path {
            match self {
                Call::Create { directory, .. } => directory,
                Call::Write { near: path, .. }
                | Call::SyncFile { path, .. }
                | Call::Link { to: path, .. }
                | Call::Rename { to: path, .. }
                | Call::MakeDirectory { path }
                | Call::SyncDirectory { path }
                | Call::Remove { path } => path,
            }
        }

        /// The inode of the call's file, if it is about one.
        pub fn inode(&self) -> Option<u64> {
            match self {
                Call::Create { file, .. }
                | Call::Write { file, .. }
                | Call::SyncFile { file, .. }
                | Call::Link { file, .. } => file.metadata().ok().map(|found| found.ino()),
                _ => None,
            }
        }
    }

    type Hook = dyn FnMut(&Call<'_>) -> io::Result<()> + Send;
    type Watcher = (PathBuf, Arc<Mutex<Hook>>);

    static WATCHERS: RwLock<Vec<Watcher>> = RwLock::new(Vec::new());

    /// Ends the watch when dropped.
    #[derive(Debug)]
    pub struct Watch(PathBuf);

    /// Tells `hook` of every call at or below a directory from now on.
    pub fn watch(directory: &Path, hook: impl FnMut(&Call<'_>) -> io::Result<()> + Send + 'static) -> Watch {
        let mut watchers = WATCHERS.write().unwrap_or_else(PoisonError::into_inner);
        watchers.push((directory.to_owned(), Arc::new(Mutex::new(hook))));
        Watch(directory.to_owned())
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            let mut watchers = WATCHERS.write().unwrap_or_else(PoisonError::into_inner);
            watchers.retain(|(directory, _)| *directory != self.0);
        }
    }

    /// Tells whoever watches.
    ///
    /// # Errors
    /// What the watcher wants the call to fail with.
    pub fn tell(call: &Call<'_>) -> io::Result<()> {
        let watchers = WATCHERS.read().unwrap_or_else(PoisonError::into_inner);
        let watcher = watchers
            .iter()
            .find(|(directory, _)| call.path().starts_with(directory));
        let Some(hook) = watcher.map(|(_, hook)| Arc::clone(hook)) else {
            return Ok(());
        };
        drop(watchers);
        (hook.lock().unwrap_or_else(PoisonError::into_inner))(call)
    }
}
