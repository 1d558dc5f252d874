//! Whether somebody else could change what a path leads to: each directory on the way, each link, and the end of it.
//!
//! Root uses a configuration, a hook or a server's program only where the answer is no. What passes can be used by its path afterwards: whoever could exchange a
//! part of the way is root, or we ourselves.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use super::{Error, Result, host};

/// The kernel follows as many links in one path (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Who could change it, and where on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distrust {
    /// The directory, link or file that is at fault.
    pub at: PathBuf,
    /// Why, as a clause: `belongs to nobody`, `can be written by everybody (mode 0777)`.
    pub reason: String,
    /// What a person types to mend it.
    pub remedy: String,
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.at.display(), self.reason, self.remedy)
    }
}

/// Follows an absolute path from `/`. Returns the real path of a file or directory that only root (or the user that we run as) can change or exchange.
///
/// A directory that everybody may write to, but with the sticky bit (`/tmp`), is passed: nobody can rename there what belongs to others.
///
/// # Errors
/// Part of the way is missing or cannot be looked at.
pub fn check(path: &Path) -> Result<std::result::Result<PathBuf, Distrust>> {
    follow(path, false)
}

/// The same for a directory in which we make something: one that everybody may write to will do, if it has the sticky bit, since nobody can exchange there what is ours.
///
/// # Errors
/// As [`check`].
pub fn check_place(directory: &Path) -> Result<std::result::Result<PathBuf, Distrust>> {
    follow(directory, true)
}

fn follow(path: &Path, place: bool) -> Result<std::result::Result<PathBuf, Distrust>> {
    let mut real = PathBuf::from("/");
    let mut left: Vec<OsString> = names_of(path);
    let mut links = 0;
    if let Some(distrust) = look(&real, place || !left.is_empty())?.1 {
        return Ok(Err(distrust));
    }
    while let Some(name) = left.pop() {
        if name == ".." {
            real.pop();
            continue;
        }
        let at = real.join(&name);
        let (link, distrust) = look(&at, place || !left.is_empty())?;
        if let Some(distrust) = distrust {
            return Ok(Err(distrust));
        }
        match link {
            None => real = at,
            Some(target) => {
                links += 1;
                if links > MOST_LINKS {
                    let error = rustix::io::Errno::LOOP;
                    return Err(Error::path("follow", path, error));
                }
                if target.is_absolute() {
                    real = PathBuf::from("/");
                }
                left.extend(names_of(&target));
            }
        }
    }
    Ok(Ok(real))
}

/// As root: refuses a path that somebody else could change. What is not there yet is looked at as far as it is there. Another user decides for himself.
///
/// # Errors
/// Somebody else could change it: where, who, and what to type.
pub fn require(path: &Path) -> Result<()> {
    if !host::is_root() {
        return Ok(());
    }
    let path = &std::path::absolute(path).map_err(|error| Error::path("find", path, error))?;
    match check(path) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(distrust)) => {
            let words = match distrust.at == *path {
                true => format!("it {}: {}", distrust.reason, distrust.remedy),
                false => distrust.to_string(),
            };
            let reason = std::io::Error::new(std::io::ErrorKind::PermissionDenied, words);
            Err(Error::path("use, as root,", path, reason))
        }
        Err(error) if error.is(std::io::ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Programs that run what their arguments name.
const INTERPRETERS: [&str; 12] = [
    "sh", "bash", "dash", "ash", "ksh", "zsh", "env", "nice", "ionice", "timeout", "sudo", "awk",
];

/// As [`require`], for a command of the configuration: its program and, of an interpreter, each file among its arguments.
///
/// # Errors
/// As [`require`].
pub fn require_command(words: &[String]) -> Result<()> {
    files_of(words).into_iter().try_for_each(require)
}

/// The program of a command, and what an interpreter is given to run.
pub fn files_of(words: &[String]) -> Vec<&Path> {
    let Some((program, arguments)) = words.split_first() else {
        return Vec::new();
    };
    let name = program.rsplit('/').next().unwrap_or_default();
    let interprets = INTERPRETERS.contains(&name)
        || ["python", "perl", "ruby", "node", "php", "busybox"]
            .iter()
            .any(|known| name.starts_with(known));
    let files = arguments.iter().map(Path::new);
    let files = files.filter(|path| interprets && path.is_absolute() && path.is_file());
    std::iter::once(Path::new(program)).chain(files).collect()
}

/// The names of a path, last first.
fn names_of(path: &Path) -> Vec<OsString> {
    let named = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    named.collect()
}

/// Where a link leads, and what is wrong with this step of the way. `above`: something below it is asked for.
fn look(at: &Path, above: bool) -> Result<(Option<PathBuf>, Option<Distrust>)> {
    let fail = |error| Error::path("look at", at, error);
    let found = std::fs::symlink_metadata(at).map_err(fail)?;
    let (uid, mode) = (found.uid(), found.permissions().mode());
    let distrust = |reason: String, remedy: String| {
        Some(Distrust {
            at: at.to_owned(),
            reason,
            remedy,
        })
    };
    if uid != 0 && uid != host::user_id() {
        let owner = host::user_name(uid);
        return Ok((
            None,
            distrust(
                format!("belongs to {owner}, who can change it"),
                format!("chown root {}", at.display()),
            ),
        ));
    }
    if found.is_symlink() {
        let target = std::fs::read_link(at).map_err(fail)?;
        return Ok((Some(target), None));
    }
    // A group's bits are the mask of an ACL, too: whoever an ACL lets write is seen here.
    let group = mode & 0o020 != 0 && found.gid() != 0;
    let sticky = above && found.is_dir() && mode & 0o1000 != 0;
    if (group || mode & 0o002 != 0) && !sticky {
        let whom = if mode & 0o002 != 0 { "everybody" } else { "its group" };
        return Ok((
            None,
            distrust(
                format!("can be written by {whom} (mode {:04o})", mode & 0o7777),
                format!("chmod go-w {}", at.display()),
            ),
        ));
    }
    Ok((None, None))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn who_could_change_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let (inner, file) = (top.join("in"), top.join("in/f"));
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(&file, "x").unwrap();
        mode(&inner, 0o755);
        mode(&file, 0o644);
        symlink("in", top.join("link")).unwrap();
        let at_fault = |path: &Path| check(path).unwrap().err().map(|distrust| distrust.at);

        assert_eq!(check(&top.join("link/../in/f")).unwrap(), Ok(file.clone()));
        assert_eq!(check(&top.join("link/f")).unwrap(), Ok(file.clone()));
        mode(&file, 0o646);
        assert_eq!(at_fault(&file), Some(file.clone()));
        mode(&file, 0o644);
        mode(&inner, 0o777);
        assert_eq!(at_fault(&top.join("link/f")), Some(inner.clone()));
        mode(&inner, 0o1777);
        assert_eq!(at_fault(&file), None, "sticky: only the owner renames");
        assert_eq!(
            at_fault(&inner),
            Some(inner.clone()),
            "as an end of the way it is still everybody's"
        );
        assert_eq!(check_place(&inner).unwrap(), Ok(inner.clone()));
        mode(&inner, 0o777);
        assert_eq!(check_place(&inner).unwrap().unwrap_err().at, inner);
        mode(&inner, 0o755);
        if host::is_root() {
            chown(&file, Some(12_345), None).unwrap();
            assert_eq!(at_fault(&top.join("link/f")), Some(file.clone()));
            chown(&file, Some(0), None).unwrap();
            std::os::unix::fs::lchown(top.join("link"), Some(12_345), None).unwrap();
            assert_eq!(at_fault(&top.join("link/f")), Some(top.join("link")));
            chown(&inner, None, Some(12_345)).unwrap();
            mode(&inner, 0o775);
            assert_eq!(at_fault(&file), Some(inner.clone()));
        }
        let round = top.join("round");
        symlink("round", &round).unwrap();
        assert!(check(&round).is_err());
        assert!(check(&top.join("missing/x")).is_err());
    }
}
