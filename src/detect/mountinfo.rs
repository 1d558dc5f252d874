//! The kernel's mount table, /proc/self/mountinfo (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::{Error, Mount, Mounts, Result};

const TABLE: &str = "/proc/self/mountinfo";

impl Mounts {
    /// Reads the mount table of this process.
    ///
    /// # Errors
    /// /proc is not mounted, or a line has an unknown form.
    pub fn read() -> Result<Mounts> {
        let bytes = std::fs::read(TABLE).map_err(|error| crate::sys::Error::path("read", TABLE, error))?;
        Mounts::parse(&bytes)
    }

    /// Parses a mount table.
    ///
    /// # Errors
    /// [`Error::MountTable`] with the line.
    pub fn parse(bytes: &[u8]) -> Result<Mounts> {
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| parse_line(line).ok_or_else(|| bad(line))).collect::<Result<Vec<Mount>>>().map(Mounts)
    }

    /// The mount that a path lies on: the last mounted of the deepest mount points that contain it.
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        let depth = |mount: &Mount| mount.mount_point.components().count();
        self.0
            .iter()
            .enumerate()
            .filter(|(_, mount)| path.starts_with(&mount.mount_point))
            .max_by_key(|(at, mount)| (depth(mount), *at))
            .map(|(_, mount)| mount)
    }
}

fn bad(line: &[u8]) -> Error {
    Error::MountTable { line: String::from_utf8_lossy(line).into_owned() }
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = device(fields.next()?)?;
    let root = path(fields.next()?);
    let mount_point = path(fields.next()?);
    let options = text(fields.next()?);
    // Optional fields, as many as there are, up to a lone hyphen.
    fields.by_ref().find(|field| field == b"-")?;
    let fs_type = text(fields.next()?);
    let source = text(fields.next()?);
    let super_options = text(fields.next().unwrap_or_default());
    Some(Mount { id, parent, device, root, mount_point, options, fs_type, source, super_options })
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device(field: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// The kernel writes space, tab, newline, backslash and hash as three octal digits after a backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        40 22 0:36 /@data /srv/my\\040data rw,noatime - btrfs /dev/loop0 rw,subvolid=256,subvol=/@data\n\
        41 40 0:40 / /srv/my\\040data/deep rw shared:2 master:3 - tmpfs tmpfs\n\
        42 22 0:41 / /srv/my\\040data/deep rw - xfs /dev/sdb rw\n";

    #[test]
    fn a_table_is_read() {
        let mounts = Mounts::parse(TABLE).unwrap();
        assert_eq!(mounts.0.len(), 4);
        assert_eq!(mounts.0[1].root, Path::new("/@data"));
        assert_eq!(mounts.0[1].mount_point, Path::new("/srv/my data"));
        assert_eq!(mounts.0[1].device, (0, 36));
        assert_eq!(mounts.0[2].super_options, "");
    }

    #[test]
    fn a_path_is_on_the_deepest_and_last_mount() {
        let mounts = Mounts::parse(TABLE).unwrap();
        assert_eq!(mounts.of(Path::new("/srv/my data/x")).unwrap().fs_type, "btrfs");
        assert_eq!(mounts.of(Path::new("/srv/my data/deep/x")).unwrap().fs_type, "xfs");
        assert_eq!(mounts.of(Path::new("/srv/my")).unwrap().fs_type, "ext4");
    }

    #[test]
    fn a_line_of_unknown_form_is_named() {
        let error = Mounts::parse(b"22 1 8:1 / / rw shared:1 ext4 /dev/sda1 rw\n").unwrap_err().to_string();
        assert!(error.contains("shared:1 ext4"), "{error}");
    }

    #[test]
    fn a_backslash_without_octal_digits_stays() {
        assert_eq!(unescape(b"a\\9b\\134c"), b"a\\9b\\c");
    }
}
