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
    /// What else on the way is at fault, in the way's order: all of it is mended at once.
    pub more: Vec<Distrust>,
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.at.display(), self.reason, self.remedy)?;
        self.more.iter().try_for_each(|other| write!(f, "; {other}"))
    }
}

impl Distrust {
    /// Everything that is at fault on one way; `None`: nothing is.
    fn of(found: Vec<Distrust>) -> Option<Distrust> {
        let mut found = found.into_iter();
        let first = found.next()?;
        let mut more: Vec<Distrust> = Vec::new();
        for other in found {
            if other.at != first.at && !more.iter().any(|known| known.at == other.at) {
                more.push(other);
            }
        }
        Some(Distrust { more, ..first })
    }

    /// The commands that mend all of it.
    pub fn remedies(&self) -> String {
        let all = std::iter::once(self).chain(&self.more);
        all.map(|one| one.remedy.as_str()).collect::<Vec<_>>().join("; ")
    }

    /// What is at fault, and why.
    pub fn reasons(&self) -> String {
        let all = std::iter::once(self).chain(&self.more);
        let all = all.map(|one| format!("{} {}", one.at.display(), one.reason));
        all.collect::<Vec<_>>().join("; ")
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
    let mut found: Vec<Distrust> = look(&real, place || !left.is_empty())?.1.into_iter().collect();
    while let Some(name) = left.pop() {
        if name == ".." {
            real.pop();
            continue;
        }
        let at = real.join(&name);
        let (link, distrust) = match look(&at, place || !left.is_empty()) {
            // What is missing below a fault may have been taken away by whoever could.
            Err(error) => return Distrust::of(found).map_or(Err(error), |distrust| Ok(Err(distrust))),
            seen => seen?,
        };
        found.extend(distrust);
        match link {
            None => real = at,
            Some(target) => {
                links += 1;
                if links > MOST_LINKS {
                    let error = Error::path("follow", path, rustix::io::Errno::LOOP);
                    return Distrust::of(found).map_or(Err(error), |distrust| Ok(Err(distrust)));
                }
                if target.is_absolute() {
                    real = PathBuf::from("/");
                }
                left.extend(names_of(&target));
            }
        }
    }
    Ok(Distrust::of(found).map_or(Ok(real), Err))
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
                true if distrust.more.is_empty() => format!("it {}: {}", distrust.reason, distrust.remedy),
                _ => distrust.to_string(),
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
            more: Vec::new(),
        })
    };
    // Where a link leads is followed also when it is a stranger's: what is behind it is named as well.
    let target = match found.is_symlink() {
        true => Some(std::fs::read_link(at).map_err(fail)?),
        false => None,
    };
    if uid != 0 && uid != host::user_id() {
        let owner = host::user_name(uid);
        // It may be somebody's home: whoever lives there is not to be locked out.
        let remedy = match found.is_dir() && (above || uid >= FIRST_OF_PEOPLE) {
            true => format!(
                "use a file or directory elsewhere, below directories of root's such as /etc/snapback, not below {}",
                at.display()
            ),
            false => format!("chown root {}", at.display()),
        };
        return Ok((
            target,
            distrust(format!("belongs to {owner}, who can change it"), remedy),
        ));
    }
    if target.is_some() {
        return Ok((target, None));
    }
    // A group's bits are the mask of an ACL, too: whoever an ACL lets write is seen here.
    let group = mode & 0o020 != 0 && found.gid() != 0 && !(found.is_dir() && is_nobodys(at, found.gid()));
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

/// Groups and users below this are the system's (login.defs(5), SYS_GID_MAX, SYS_UID_MAX).
const FIRST_OF_PEOPLE: u32 = 1000;

/// Whether a directory's group is nobody's: Debian made /usr/local, and directories in it, root:staff with mode 2775, and hosts keep that through upgrades. A
/// system group that has no member and lets nobody in adds nobody to those who can write there. With an ACL the group's bits say something else.
fn is_nobodys(directory: &Path, gid: u32) -> bool {
    let text = |path: &str| std::fs::read_to_string(path);
    let acl = rustix::fs::lgetxattr(directory, "system.posix_acl_access", &mut [0u8; 0]);
    let plain = matches!(acl, Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP));
    let (Ok(groups), Ok(users)) = (text("/etc/group"), text("/etc/passwd")) else {
        return false;
    };
    plain && is_empty_group(&groups, &text("/etc/gshadow").unwrap_or_default(), &users, gid)
}

/// By group(5), gshadow(5) and passwd(5): a system group without members and without a password, and no user's own group but root's.
fn is_empty_group(groups: &str, shadow: &str, users: &str, gid: u32) -> bool {
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let closed = |password: &str| matches!(password, "" | "x") || password.starts_with(['*', '!']);
    let of_gid: Vec<_> = groups
        .lines()
        .map(fields)
        .filter(|group| group.get(2).is_some_and(|found| found.parse() == Ok(gid)))
        .collect();
    let empty = |group: &Vec<String>| {
        let hidden = shadow.lines().map(fields).filter(|line| line[0] == group[0]);
        let mut hidden = hidden
            .map(|line| closed(line.get(1).map_or("", String::as_str)) && line.iter().skip(2).all(String::is_empty));
        group.len() == 4 && group[3].is_empty() && closed(&group[1]) && hidden.all(|empty| empty)
    };
    let own = |user: Vec<String>| {
        let number = |at: usize| user.get(at).and_then(|field| field.parse::<u32>().ok());
        number(3) == Some(gid) && number(2) != Some(0)
    };
    gid < FIRST_OF_PEOPLE && !of_gid.is_empty() && of_gid.iter().all(empty) && !users.lines().map(fields).any(own)
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
            chown(&inner, Some(12_345), None).unwrap();
            let remedies = check(&file).unwrap().unwrap_err().remedies();
            assert!(
                !remedies.contains("chown") && remedies.contains("/etc/snapback"),
                "{remedies}"
            );
            chown(&inner, Some(0), None).unwrap();
            chown(&inner, None, Some(12_345)).unwrap();
            mode(&inner, 0o775);
            assert_eq!(at_fault(&file), Some(inner.clone()));
        }
        let round = top.join("round");
        symlink("round", &round).unwrap();
        assert!(check(&round).is_err());
        assert!(check(&top.join("missing/x")).is_err());
    }

    #[test]
    fn everything_at_fault_on_a_way_is_named_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let (outer, inner) = (top.join("a"), top.join("a/b"));
        std::fs::create_dir_all(&inner).unwrap();
        mode(&outer, 0o777);
        mode(&inner, 0o777);
        let distrust = check(&inner.join("missing")).unwrap().unwrap_err();
        assert_eq!(
            distrust.remedies(),
            format!("chmod go-w {}; chmod go-w {}", outer.display(), inner.display())
        );
        assert!(distrust.reasons().contains("a/b can be written"), "{distrust}");
        if host::is_root() {
            let said = require(&inner).unwrap_err().to_string();
            assert!(
                said.contains(&distrust.remedies().replace(
                    "; ",
                    &format!("; {} can be written by everybody (mode 0777): ", inner.display())
                )),
                "{said}"
            );
        }
    }

    #[test]
    fn a_system_group_that_nobody_is_in_adds_nobody() {
        let users = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\ngames:x:5:60::/:/bin/sh\n";
        let groups = "root:x:0:\nstaff:x:50:\nadm:x:4:alice\ngames:x:60:\nopen:AbC:70:\nteam:x:1001:\n";
        let empty = |shadow: &str, gid| is_empty_group(groups, shadow, users, gid);
        assert!(empty("staff:*::\n", 50) && empty("staff:!::\n", 50) && empty("", 50));
        for (why, shadow, gid) in [
            ("a member", "", 4),
            ("somebody's own group", "", 60),
            ("a password", "", 70),
            ("no system group", "", 1001),
            ("no group at all", "", 77),
            ("a password", "staff:$6$x::\n", 50),
            ("an administrator", "staff:*:alice:\n", 50),
            ("a member", "staff:*::alice\n", 50),
        ] {
            assert!(!empty(shadow, gid), "{why}");
        }
    }
}
