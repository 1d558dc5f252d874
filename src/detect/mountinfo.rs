//! The kernel's mount table, /proc/self/mountinfo (proc(5)).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::Error;

/// One line of /proc/self/mountinfo (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Mount id.
    pub id: u32,
    /// Parent mount id.
    pub parent: u32,
    /// The filesystem's device number, major and minor. The same for every mount of it (files in Btrfs subvolumes have others).
    pub device: (u32, u32),
    /// The directory of the filesystem that forms the root of this mount (Btrfs: with the subvolume's path).
    pub root: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Per-mount options.
    pub options: String,
    /// Filesystem type.
    pub fs_type: String,
    /// Source: device or dataset.
    pub source: String,
    /// Per-superblock options.
    pub super_options: String,
}

impl Mount {
    /// The path within the filesystem (from its very top) of a path on this mount.
    pub fn within(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.mount_point).ok()?;
        Some(joined(&self.root, below))
    }

    /// Where a path within the filesystem appears through this mount, if it does (something else may be mounted over it).
    pub fn shows(&self, within: &Path) -> Option<PathBuf> {
        let below = within.strip_prefix(&self.root).ok()?;
        Some(joined(&self.mount_point, below))
    }

    /// Whether nothing can be written through this mount.
    pub fn is_read_only(&self) -> bool {
        let read_only = |options: &str| options.split(',').any(|option| option == "ro");
        read_only(&self.options) || read_only(&self.super_options)
    }
}

/// [`Path::join`] adds a slash for an empty path.
fn joined(base: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() {
        base.to_owned()
    } else {
        base.join(below)
    }
}

/// The mount table at one moment.
#[derive(Debug, Clone, Default)]
pub struct Mounts(pub Vec<Mount>);

impl Mounts {
    /// Reads the mount table of this process.
    ///
    /// # Errors
    /// It cannot be read or parsed.
    pub fn read() -> Result<Mounts, Error> {
        let path = "/proc/self/mountinfo";
        let table = std::fs::read(path).map_err(|error| crate::sys::Error::path("read", path, error))?;
        Mounts::parse(&table)
    }

    /// Parses a mount table.
    ///
    /// # Errors
    /// A line is not as proc(5) says.
    pub fn parse(table: &[u8]) -> Result<Mounts, Error> {
        let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| {
                parse_line(line).ok_or_else(|| Error::MountTable {
                    line: String::from_utf8_lossy(line).into_owned(),
                })
            })
            .collect::<Result<_, _>>()
            .map(Mounts)
    }

    /// The mount that a path lies on: the last mounted of the longest mount points that are a prefix of it.
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        let depth = |mount: &Mount| mount.mount_point.components().count();
        self.0
            .iter()
            .filter(|mount| path.starts_with(&mount.mount_point))
            .max_by_key(|mount| (depth(mount), mount.id))
    }

    /// The mount that holds a path that is there, as the kernel says (statx(2) since Linux 5.8: right also where mounts hide
    /// each other), else by [`of`](Mounts::of).
    pub fn holding(&self, path: &Path) -> Option<&Mount> {
        // Neither triggers an automount nor asks a server that may be dead.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let asked = rustix::fs::statx(CWD, path, flags, StatxFlags::MNT_ID).ok();
        asked
            .filter(|answer| StatxFlags::from_bits_retain(answer.stx_mask).contains(StatxFlags::MNT_ID))
            .and_then(|answer| self.0.iter().find(|mount| u64::from(mount.id) == answer.stx_mnt_id))
            .or_else(|| self.of(path))
    }

    /// The mounts whose mount point is strictly below a directory and not hidden by another mount.
    pub fn below(&self, directory: &Path) -> Vec<&Mount> {
        let strictly = |mount: &&Mount| mount.mount_point != directory && mount.mount_point.starts_with(directory);
        let visible = |mount: &&Mount| self.holding(&mount.mount_point).is_some_and(|top| top.id == mount.id);
        self.0.iter().filter(strictly).filter(visible).collect()
    }

    /// The live paths at which a path within a filesystem may appear, through whichever of its mounts.
    pub fn showing<'a>(&'a self, device: (u32, u32), within: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
        let same = self.0.iter().filter(move |mount| mount.device == device);
        same.filter_map(move |mount| mount.shows(within))
    }
}

/// `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw,errors=continue`; any number of optional fields before
/// the dash; an empty source leaves two spaces in a row.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = || fields.next().map(unescape);
    let number = |field: OsString| field.to_str()?.parse().ok();
    let (id, parent) = (number(next()?)?, number(next()?)?);
    let device = next()?.into_string().ok()?;
    let (major, minor) = device.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let (root, mount_point) = (PathBuf::from(next()?), PathBuf::from(next()?));
    let options = lossy(next()?);
    while next()? != OsStr::new("-") {}
    let (fs_type, source) = (lossy(next()?), lossy(next()?));
    Some(Mount {
        id,
        parent,
        device,
        root,
        mount_point,
        options,
        fs_type,
        source,
        super_options: next().map(lossy).unwrap_or_default(),
    })
}

fn lossy(text: OsString) -> String {
    text.to_string_lossy().into_owned()
}

/// The kernel writes space, tab, newline, backslash and `#` as a backslash and three octal digits.
pub(super) fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = |digit: &u8| matches!(digit, b'0'..=b'7').then(|| u32::from(digit - b'0'));
        let code = match (byte, after) {
            (b'\\', [a, b, c, ..]) => octal(a).zip(octal(b)).zip(octal(c)),
            _ => None,
        };
        match code.and_then(|((a, b), c)| u8::try_from(a * 64 + b * 8 + c).ok()) {
            Some(code) => {
                plain.push(code);
                rest = &after[3..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn bytes(path: &Path) -> &[u8] {
        path.as_os_str().as_bytes()
    }

    fn one(line: &str) -> Mount {
        Mounts::parse(line.as_bytes()).unwrap().0.remove(0)
    }

    #[test]
    fn an_ordinary_line() {
        let mount = one("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n");
        let expected = Mount {
            id: 36,
            parent: 35,
            device: (98, 0),
            root: "/mnt1".into(),
            mount_point: "/mnt2".into(),
            options: "rw,noatime".into(),
            fs_type: "ext3".into(),
            source: "/dev/root".into(),
            super_options: "rw,errors=continue".into(),
        };
        assert_eq!(mount, expected);
    }

    #[test]
    fn no_optional_fields_or_several() {
        assert_eq!(one("1 0 0:2 / / rw - rootfs none rw").fs_type, "rootfs");
        let mount = one("1 0 0:2 / / rw shared:1 master:2 propagate_from:3 unbindable - tmpfs tmpfs rw");
        assert_eq!(mount.source, "tmpfs");
    }

    #[test]
    fn odd_names_survive() {
        let mount = one(r"1 0 0:2 /a\040b /mnt/tab\011new\012line\134slash\043 rw - fuse.x y\040z rw");
        assert_eq!(mount.root, Path::new("/a b"));
        assert_eq!(bytes(&mount.mount_point), b"/mnt/tab\tnew\nline\\slash#");
        assert_eq!(mount.source, "y z");
        let mount = Mounts::parse(b"1 0 0:2 / /caf\xe9\\04x\\400 rw - ext4 /dev/a rw")
            .unwrap()
            .0
            .remove(0);
        assert_eq!(
            bytes(&mount.mount_point),
            b"/caf\xe9\\04x\\400",
            "what is no escape stays as it is"
        );
    }

    #[test]
    fn an_empty_source_and_missing_super_options() {
        let mount = one("1 0 0:2 / /x rw - tmpfs  rw,size=1k");
        assert_eq!(
            (mount.source.as_str(), mount.super_options.as_str()),
            ("", "rw,size=1k")
        );
        assert_eq!(one("1 0 0:2 / /x rw - tmpfs none").super_options, "");
    }

    #[test]
    fn a_line_that_is_no_mount_is_named() {
        for line in [
            "garbage",
            "1 0 0:2 / /x rw shared:1",
            "1 0 02 / /x rw - a b c",
            "x 0 0:2 / /x rw - a b c",
        ] {
            let error = Mounts::parse(line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(line), "{error}");
        }
    }

    #[test]
    fn the_deepest_and_last_mount_holds_a_path() {
        let table = "1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /data rw - ext4 b rw\n\
                     3 1 0:3 / /data rw - btrfs c rw\n4 1 0:4 / /database rw - xfs d rw\n";
        let mounts = Mounts::parse(table.as_bytes()).unwrap();
        assert_eq!(mounts.of(Path::new("/data/x")).unwrap().source, "c");
        assert_eq!(mounts.of(Path::new("/databases")).unwrap().source, "a");
    }

    #[test]
    fn paths_within_a_filesystem_and_back() {
        let table =
            "1 0 0:1 /@ / rw - btrfs a rw\n2 1 0:1 /@/srv/web /www ro - btrfs a rw\n3 1 0:9 / /x rw - btrfs b rw\n";
        let mounts = Mounts::parse(table.as_bytes()).unwrap();
        let within = mounts.0[1].within(Path::new("/www/site")).unwrap();
        assert_eq!(within, Path::new("/@/srv/web/site"));
        assert_eq!(mounts.0[1].within(Path::new("/www")).unwrap().as_os_str(), "/@/srv/web");
        let shown: Vec<PathBuf> = mounts.showing((0, 1), &within).collect();
        assert_eq!(shown, [Path::new("/srv/web/site"), Path::new("/www/site")]);
        assert!(mounts.0[1].is_read_only() && !mounts.0[0].is_read_only());
        assert_eq!(mounts.0[1].shows(Path::new("/@/srv/website")), None);
    }

    #[test]
    fn the_tables_of_this_machine_are_read() {
        let mounts = Mounts::read().unwrap();
        let proc = mounts.holding(Path::new("/proc/self/mountinfo")).unwrap();
        assert_eq!(proc.fs_type, "proc");
    }
}
