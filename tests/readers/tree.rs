//! A tree with everything that a backup can hold, and a listing that leaves nothing out.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, SeekFrom, Timespec, Timestamps, XattrFlags, makedev};
use snapback::sys::fs::link_xattrs;

pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(next).collect()
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// An ACL as the kernel keeps it: owner rwx, user 1234 r-x, group r--, mask r-x, others nothing.
fn acl() -> Vec<u8> {
    let entry =
        |tag: u16, bits: u16, id: u32| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat();
    let entries = [
        (1, 7, u32::MAX),
        (2, 5, 1234),
        (4, 4, u32::MAX),
        (16, 5, u32::MAX),
        (32, 0, u32::MAX),
    ];
    let entries = entries.iter().flat_map(|(tag, bits, id)| entry(*tag, *bits, *id));
    [2, 0, 0, 0].into_iter().chain(entries).collect()
}

/// Makes the tree; `seed` makes content.
pub fn build(dir: &Path, seed: u64) {
    std::fs::create_dir_all(dir.join("deep/er")).unwrap();
    let write = |name: &OsStr, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
    write(OsStr::new("empty"), b"");
    write(OsStr::new("small"), b"hello");
    write(OsStr::new("noise"), &noise(seed, 300_000));
    write(OsStr::new("zeros"), &vec![0; 200_000]);
    write(OsStr::new("deep/er/log.000001"), &noise(seed + 1, 2_500_000));
    for name in [
        &b"new\nline"[..],
        b"not\xff\xfeutf8",
        b"-rf",
        "größe".as_bytes(),
        b"back\\slash",
        b"a b",
    ] {
        write(OsStr::from_bytes(name), name);
    }
    write(OsStr::new(&"n".repeat(255)), b"long");
    let long = dir.join("l".repeat(120)).join("m".repeat(120));
    std::fs::create_dir_all(&long).unwrap();
    std::fs::write(long.join(OsStr::from_bytes(b"bin\xe9ary")), "below").unwrap();
    symlink(format!("../{}", "t".repeat(150)), long.join("link")).unwrap();

    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    sparse.write_all_at(&noise(seed + 2, 128 << 10), 5 << 20).unwrap();
    let large = File::create(dir.join("large-sparse")).unwrap();
    large.set_len((150 << 20) + 777).unwrap();
    large.write_all_at(&noise(seed + 3, 64 << 10), 70 << 20).unwrap();
    large.write_all_at(&noise(seed + 4, 777), 150 << 20).unwrap();
    File::create(dir.join("hole")).unwrap().set_len(1 << 20).unwrap();

    std::fs::hard_link(dir.join("noise"), dir.join("deep/noise-too")).unwrap();
    std::fs::hard_link(dir.join("noise"), dir.join("zz-noise")).unwrap();
    symlink("../nowhere", dir.join("deep/link")).unwrap();
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.join(name),
            kind,
            Mode::from_raw_mode(0o640),
            device,
        )
        .unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    node("null", FileType::CharacterDevice, makedev(1, 3));
    node("disk", FileType::BlockDevice, makedev(259, 70_000));

    for (name, value) in [
        ("user.note", &b"a\0b"[..]),
        ("user.large", &[7; 2000]),
        ("trusted.kept", b"yes"),
    ] {
        set_xattr(&dir.join("small"), name, value);
    }
    set_xattr(&dir.join("deep"), "user.on-directory", b"x=y\nz");
    set_xattr(&dir.join("a b"), "system.posix_acl_access", &acl());
    set_xattr(&dir.join("deep/er"), "system.posix_acl_default", &acl());
    std::os::unix::fs::chown(dir.join("noise"), Some(1234), Some(5678)).unwrap();
    std::os::unix::fs::chown(dir.join("empty"), Some(3_000_000), Some(3_000_001)).unwrap();
    std::os::unix::fs::lchown(dir.join("deep/link"), Some(1234), Some(1)).unwrap();
    for (name, mode) in [("small", 0o4751), ("empty", 0), ("deep", 0o1770), ("noise", 0o600)] {
        std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    set_time(&dir.join("zeros"), -2, 500_000_000);
    set_time(&dir.join("hole"), 4_000_000_000, 1);
    set_time(&dir.join("deep/link"), 1_000_000_000, 123_456_789);
    set_time(&dir.join("deep/er"), 1_100_000_000, 5);
    set_time(&dir.join("deep"), 1_200_000_000, 999_999_999);
}

/// Everything below a directory and itself: kind, mode, owner, time, names, size, content, data regions, target, device, attributes.
pub fn listing(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(at) = left.pop() {
        let meta = std::fs::symlink_metadata(&at).unwrap();
        let mut line = format!(
            "mode={:o} owner={}:{} mtime={}.{:09}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        if meta.is_dir() {
            left.extend(std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            line += &format!(" names={}", meta.nlink());
        }
        if meta.is_symlink() {
            let target = std::fs::read_link(&at).unwrap();
            line += &format!(" target={}", brief(target.as_os_str().as_bytes()));
        } else if meta.is_file() {
            line += &content(&at);
        } else if !meta.is_dir() {
            line += &format!(" device={}", meta.rdev());
        }
        for (name, value) in link_xattrs(&at).unwrap() {
            line += &format!(" {}={}", name.escape_ascii(), brief(&value));
        }
        found.insert(name_in(dir, &at), line);
    }
    found
}

/// Bytes as text; long ones by their hash.
pub fn brief(bytes: &[u8]) -> String {
    match bytes.len() {
        ..200 => bytes.escape_ascii().to_string(),
        long => format!("{long}:{}", blake3::hash(bytes).to_hex()),
    }
}

fn name_in(dir: &Path, at: &Path) -> String {
    let relative: PathBuf = at.strip_prefix(dir).unwrap().into();
    relative.as_os_str().as_bytes().escape_ascii().to_string()
}

fn content(path: &Path) -> String {
    let mut file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let (mut regions, mut at) = (Vec::new(), 0);
    while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        at = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap();
        regions.push(start..at.min(size));
    }
    rustix::fs::seek(&file, SeekFrom::Start(0)).unwrap();
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => break,
            got => hasher.update(&buffer[..got]),
        };
    }
    format!(" size={size} blake3={} data={regions:?}", hasher.finalize())
}

pub fn assert_same(found: &BTreeMap<String, String>, expected: &BTreeMap<String, String>) {
    for (name, line) in expected {
        assert_eq!(found.get(name), Some(line), "{name}");
    }
    assert_eq!(found.len(), expected.len(), "{:?}", found.keys().collect::<Vec<_>>());
}
