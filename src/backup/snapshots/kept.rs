//! Snapshots that outlive their run, because a record names them ([`crate::held`]).

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::{Readable, Taken, mount_point};
use crate::backup::examine::provider_of;
use crate::backup::run::Run;
use crate::held::HeldVolume;
use crate::journal::{Journal, Made};
use crate::volume::Provider;
use crate::{Error, Result};

impl<'p> Taken<'p> {
    /// Lets the snapshots be, out of sight: from now on a record names them, and the journal forgets them. `kept` is called when nothing
    /// removes them any more.
    pub fn keep(mut self, journal: &Journal, kept: impl FnOnce()) -> Result<()> {
        let all = std::mem::take(&mut self.all);
        kept();
        for readable in all {
            readable.provider.unmount(&readable.snapshot, &readable.at)?;
            readable.note_undone(journal)?;
        }
        let mut places = std::mem::take(&mut self.places).into_iter();
        places.try_for_each(|at| Ok(journal.undone(&Made::Directory { at })?))
    }

    /// Makes snapshots readable that were kept; the journal has their mounts only. [`let_be`](Taken::let_be) ends it.
    pub fn of_kept(
        run: &Run<'_>,
        providers: &'p [Box<dyn Provider>],
        kept: &[HeldVolume],
        places: &[PathBuf],
    ) -> Result<Taken<'p>> {
        let mut taken = Taken::default();
        taken.places.extend(places.iter().cloned());
        for one in kept {
            let at = mount_point(run, taken.all.len());
            let provider = provider_of(providers, &one.snapshot.volume)?;
            let mounted = taken.make_readable(run, provider, one, at);
            if let Err(cause) = mounted {
                return Err(cause.and_rollback(taken.let_be(&run.journal)));
            }
        }
        Ok(taken)
    }

    fn make_readable(
        &mut self,
        run: &Run<'_>,
        provider: &'p dyn Provider,
        one: &HeldVolume,
        at: PathBuf,
    ) -> Result<()> {
        if provider.mounts() {
            run.journal.record(&Made::Mount { at: at.clone() })?;
        }
        let top = match provider.mount(&one.snapshot, &at) {
            Ok(top) => top,
            Err(cause) if provider.mounts() => {
                return Err(Error::from(cause).and_rollback(Ok(run.journal.undone(&Made::Mount { at })?)));
            }
            Err(cause) => return Err(cause.into()),
        };
        self.all.push(Readable {
            provider,
            snapshot: one.snapshot.clone(),
            clone: None,
            at,
            snapshot_top: top.clone(),
            top,
            create_us: 0,
            with_database: one.with_database,
            warned: AtomicBool::new(false),
            kept: true,
        });
        Ok(())
    }

    /// Ends [`of_kept`](Taken::of_kept): nothing is mounted any more, and the snapshots stay.
    pub fn let_be(mut self, journal: &Journal) -> Result<()> {
        let mut first = Ok(());
        for readable in std::mem::take(&mut self.all) {
            let unmounted = readable.provider.unmount(&readable.snapshot, &readable.at);
            let noted = unmounted.map_err(Error::from).and_then(|()| {
                if readable.provider.mounts() {
                    journal.undone(&Made::Mount {
                        at: readable.at.clone(),
                    })?;
                }
                Ok(())
            });
            first = first.and(noted);
        }
        first
    }
}
