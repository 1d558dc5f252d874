//! A held set made readable: each tree at its original path below one directory, read-only.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use crate::backup::examine::provider_of;
use crate::config::Config;
use crate::detect::Mounts;
use crate::held::{self, Held};
use crate::sys::signal::Cancel;
use crate::sys::view::{self, View};
use crate::units::Id;
use crate::volume::{self, Provider};
use crate::{Error, Result};

use super::place::{Place, Use};

/// Names the view to the command that runs in it.
const VARIABLE: &str = "SNAPBACK_MOUNT";

/// Shows a set at an empty directory until somebody unmounts it (`umount -R DIR`): to root, or with `allow_other` also to those whom the
/// directories above the trees let through.
///
/// # Errors
/// It is in use alone, the directory is not empty, or something cannot be mounted: nothing is shown then.
pub fn mount(config: &Config, id: Id, at: &Path, allow_other: bool) -> Result<()> {
    let used = usable(config, id)?;
    // It is mounted, and unmounted, by its path.
    crate::sys::trust::require(at)?;
    let at = at
        .canonicalize()
        .map_err(|error| crate::sys::Error::path("mount at", at, error))?;
    let empty = std::fs::read_dir(&at)
        .map_err(|error| crate::sys::Error::path("mount at", &at, error))?
        .next()
        .is_none();
    let covered = Mounts::read()?.0.iter().any(|mount| mount.mount_point == at);
    if !empty || covered {
        return Err(Error::usage(format!(
            "{} is not an empty directory, or something is mounted there",
            at.display()
        )));
    }
    show(&used.held, &volume::providers(config), &at, allow_other).map(drop)
}

/// Runs a command with a set mounted in a private place, which is its working directory and in `$SNAPBACK_MOUNT`. The mounts go with the command, or with us.
/// Returns its exit status as a shell has it: 128+n where signal n ended it.
///
/// # Errors
/// The set cannot be shown, or the command cannot be started.
pub fn exec(config: &Config, id: Id, command: &[OsString], cancel: &Cancel) -> Result<u8> {
    inside(config, id, |_, at| {
        let status = view::run_in(at, VARIABLE, command, cancel)?;
        let code = status.code().or(status.signal().map(|signal| 128 + signal));
        Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    })
}

/// Does something where a set is shown and nobody else sees it: `work` gets the set and the directory.
pub(super) fn inside<T: Send>(
    config: &Config,
    id: Id,
    work: impl FnOnce(&Held, &Path) -> Result<T> + Send,
) -> Result<T> {
    let used = usable(config, id)?;
    let place = Place::make(id, Use::View)?;
    let at = place.at();
    // Mounts of its own are a thread's, and of what it starts.
    std::thread::scope(|scope| {
        let in_private = scope.spawn(|| {
            view::private_mounts()?;
            let providers = volume::providers(config);
            // What the command gives up rights for is its own affair: it sees what the original paths show.
            let view = show(&used.held, &providers, at, true)?;
            let result = work(&used.held, at);
            let ended = view.end().map_err(Error::from);
            match (result, ended) {
                (Ok(value), Ok(())) => Ok(value),
                (Ok(_), Err(error)) => Err(error),
                (Err(cause), ended) => Err(cause.and_rollback(ended)),
            }
        });
        in_private
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The set, as long as nobody removes it.
pub(super) fn usable(config: &Config, id: Id) -> Result<held::Use> {
    let used = held::take_for(&config.state_dir, id, false)?;
    if used.held.deleting {
        return Err(Error::failed(format!(
            "the removal of held set {} has begun: `snapback cleanup` goes on with it",
            id.short()
        )));
    }
    Ok(used)
}

/// Shows all trees. What providers mount for it is out of sight afterwards: the trees keep it alive.
fn show(held: &Held, providers: &[Box<dyn Provider>], at: &Path, for_all: bool) -> Result<View> {
    let mut tops: Vec<PathBuf> = Vec::new();
    let mut mounted: Vec<Place> = Vec::new();
    let result = readable(held, providers, &mut tops, &mut mounted).and_then(|()| {
        let view = View::begin(at, for_all)?;
        match shown(held, &tops, &view) {
            Ok(()) => Ok(view),
            Err(cause) => Err(cause.and_rollback(view.end().map_err(Error::from))),
        }
    });
    let unmounted = mounted.iter().try_for_each(|place| {
        crate::sys::mount::unmount_or_detach(place.at())?;
        Ok(())
    });
    match (result, unmounted) {
        (Ok(view), Ok(())) => Ok(view),
        (Ok(view), Err(cause)) => Err(Error::and_rollback(cause, view.end().map_err(Error::from))),
        (Err(cause), unmounted) => Err(cause.and_rollback(unmounted)),
    }
}

fn readable(
    held: &Held,
    providers: &[Box<dyn Provider>],
    tops: &mut Vec<PathBuf>,
    mounted: &mut Vec<Place>,
) -> Result<()> {
    for (number, snapshot) in held.snapshots().enumerate() {
        let provider = provider_of(providers, &snapshot.volume)?;
        let place = Place::make(held.id, Use::Held(number))?;
        tops.push(provider.mount(snapshot, place.at())?);
        crate::failpoint!("held.readable");
        if provider.mounts() {
            mounted.push(place);
        }
    }
    Ok(())
}

fn shown(held: &Held, tops: &[PathBuf], view: &View) -> Result<()> {
    let mut trees: Vec<_> = held.trees.iter().collect();
    // The outer ones first.
    trees.sort_by_key(|tree| tree.root.path.components().count());
    for tree in trees {
        let top = tops
            .get(tree.volume)
            .ok_or_else(|| Error::failed("the record names a volume that it does not have"))?;
        // Joining nothing would add a slash.
        let from = match tree.relative.as_os_str().is_empty() {
            true => top.clone(),
            false => top.join(&tree.relative),
        };
        let above = |path: &Path| {
            let above = tree.root.above(path);
            (above.mode, above.uid, above.gid)
        };
        view.show(&from, &tree.root.path, &above)?;
    }
    Ok(view.seal()?)
}
