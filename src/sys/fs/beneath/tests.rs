use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

fn anchored() -> (tempfile::TempDir, Beneath) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("sub")).unwrap();
    std::fs::create_dir(dir.path().join("outside")).unwrap();
    symlink(dir.path().join("outside"), root.join("out")).unwrap();
    symlink("sub", root.join("in")).unwrap();
    let beneath = Beneath::open(&root).unwrap();
    (dir, beneath)
}

const HOSTILE: [&str; 7] = ["../x", "/etc/x", "sub/../../x", "out/x", "in/x", "sub/..", ".."];

#[test]
fn nothing_is_made_outside_or_through_a_link() {
    let (dir, beneath) = anchored();
    for path in HOSTILE.map(Path::new) {
        assert!(beneath.create_file(path, 0o600).is_err(), "{path:?}");
        assert!(beneath.make_directory(path, 0o700).is_err(), "{path:?}");
        assert!(beneath.make_symlink(b"t", path).is_err(), "{path:?}");
        assert!(beneath.make_special(Special::Fifo, path, 0o600).is_err(), "{path:?}");
        assert!(beneath.set_mode(path, 0o777).is_err(), "{path:?}");
        assert!(beneath.set_owner(path, 0, 0).is_err(), "{path:?}");
        assert!(beneath.set_modified(path, 0).is_err(), "{path:?}");
        assert!(beneath.exists(path).is_err(), "{path:?}");
        assert!(beneath.make_hard_link(Path::new("sub"), path).is_err(), "{path:?}");
        assert!(beneath.rename(Path::new("sub"), path).is_err(), "{path:?}");
        assert!(beneath.remove_file(path).is_err(), "{path:?}");
    }
    assert!(!dir.path().join("x").exists());
    assert_eq!(std::fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(dir.path().join("root/sub")).unwrap().count(), 0);
}

#[test]
fn the_fallback_refuses_the_same() {
    let (dir, beneath) = anchored();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    for path in HOSTILE.iter().chain(&["out", "in"]).map(Path::new) {
        let answer = step_by_step(beneath.directory.as_fd(), path, flags, Mode::RUSR);
        assert!(answer.is_err(), "{path:?}");
    }
    step_by_step(beneath.directory.as_fd(), Path::new("sub/file"), flags, Mode::RUSR).unwrap();
    assert!(dir.path().join("root/sub/file").exists());
}

#[test]
fn a_link_is_never_opened_or_changed_as_its_target() {
    let (dir, beneath) = anchored();
    let target = dir.path().join("outside/t");
    std::fs::write(&target, "t").unwrap();
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o600)).unwrap();
    beneath
        .make_symlink(target.as_os_str().as_bytes(), Path::new("l"))
        .unwrap();
    assert!(beneath.open_file(Path::new("l")).is_err());
    assert!(beneath.set_mode(Path::new("l"), 0o777).is_err());
    beneath.set_modified(Path::new("l"), 1_500_000_000).unwrap();
    assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
    let link = std::fs::symlink_metadata(dir.path().join("root/l")).unwrap();
    assert_eq!((link.mtime(), link.mtime_nsec()), (1, 500_000_000));
    assert_ne!(std::fs::metadata(&target).unwrap().mtime(), 1);
}

#[test]
fn metadata_reaches_files_directories_and_the_root() {
    let (dir, beneath) = anchored();
    let root = dir.path().join("root");
    for name in ["sub", "", "f"] {
        if name == "f" {
            drop(beneath.create_file(Path::new(name), 0o600).unwrap());
        }
        beneath.set_mode(Path::new(name), 0o711).unwrap();
        beneath.set_modified(Path::new(name), -1).unwrap();
        let found = std::fs::metadata(root.join(name)).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o711, "{name}");
        assert_eq!((found.mtime(), found.mtime_nsec()), (-1, 999_999_999), "{name}");
    }
}

#[test]
fn renaming_takes_no_name_that_is_taken() {
    let (dir, beneath) = anchored();
    let root = dir.path().join("root");
    std::fs::write(root.join("a"), "a").unwrap();
    std::fs::write(root.join("b"), "b").unwrap();
    let taken = beneath.rename(Path::new("a"), Path::new("b")).unwrap_err();
    assert_eq!(taken.errno(), Some(libc::EEXIST));
    beneath.rename(Path::new("a"), Path::new("sub/c")).unwrap();
    assert_eq!(std::fs::read(root.join("sub/c")).unwrap(), b"a");
    beneath.remove_file(Path::new("sub/c")).unwrap();
    assert!(!root.join("sub/c").exists() && beneath.remove_file(Path::new("sub")).is_err());
}

#[test]
fn directories_are_made_on_the_way() {
    let (dir, beneath) = anchored();
    beneath.make_directories(Path::new("a/b/c"), 0o700).unwrap();
    assert!(!beneath.make_directory(Path::new("a/b/c"), 0o700).unwrap());
    assert!(dir.path().join("root/a/b/c").is_dir());
    drop(beneath.create_file(Path::new("a/f"), 0o600).unwrap());
    beneath.make_hard_link(Path::new("a/f"), Path::new("a/b/g")).unwrap();
    assert_eq!(std::fs::metadata(dir.path().join("root/a/b/g")).unwrap().nlink(), 2);
    assert!(beneath.exists(Path::new("a/b/g")).unwrap() && !beneath.exists(Path::new("a/none")).unwrap());
}

#[test]
fn what_was_made_is_ours_and_goes_by_its_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let top = Beneath::open_way(&dir.path().canonicalize().unwrap(), false).unwrap();
    let (name, other) = (std::ffi::OsStr::new("made"), std::ffi::OsStr::new("other"));
    let made = top.make_ours(name).unwrap();
    assert!(top.make_ours(name).is_err(), "the name is taken");
    assert!(made.try_lock().unwrap() && !top.enter(Path::new("made")).unwrap().try_lock().unwrap());
    made.create_durably(std::ffi::OsStr::new("f"), b"x", 0o600).unwrap();
    // Somebody takes it away and puts something else there.
    top.move_to(name, &top, other).unwrap();
    std::fs::create_dir_all(dir.path().join("made/theirs")).unwrap();
    assert!(!top.is_named(name, &made).unwrap() && top.is_named(other, &made).unwrap());
    assert!(top.remove_held(name, &made).is_err());
    assert!(dir.path().join("made/theirs").exists() && !dir.path().join("other/f").exists());
    // A file takes no name that is taken, not even an empty directory's.
    std::fs::write(dir.path().join("file"), "x").unwrap();
    assert!(top.move_to(std::ffi::OsStr::new("file"), &top, other).is_err());
    top.remove_all(name).unwrap();
    assert!(!dir.path().join("made").exists());
    for bad in ["..", ".", "a/b", ""] {
        assert!(top.remove_all(std::ffi::OsStr::new(bad)).is_err(), "{bad}");
    }
}

#[test]
fn links_are_followed_only_where_nobody_else_could_lay_them() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().canonicalize().unwrap();
    std::fs::create_dir_all(top.join("home/real")).unwrap();
    symlink("home", top.join("own")).unwrap();
    symlink("real", top.join("home/door")).unwrap();
    let open = |path: &str, make| Beneath::open_way(&top.join(path), make).map(|found| found.path().to_owned());
    assert_eq!(open("own/door", false).unwrap(), top.join("home/real"));
    assert_eq!(open("own/../own/real", false).unwrap(), top.join("home/real"));
    assert_eq!(open("own/new/deep", true).unwrap(), top.join("home/new/deep"));
    assert!(open("own/missing", false).unwrap_err().is(std::io::ErrorKind::NotFound));
    assert!(Beneath::open_way(&top.join("own"), false).unwrap().is_only_ours());
    symlink("round", top.join("round")).unwrap();
    assert!(open("round", false).is_err());
    // From here on everybody could have laid the link.
    std::fs::set_permissions(top.join("home"), std::fs::Permissions::from_mode(0o777)).unwrap();
    for path in ["own/door", "own/real/.."] {
        let said = open(path, false).unwrap_err().to_string();
        assert!(said.contains("name the real path"), "{path}: {said}");
    }
    assert!(!Beneath::open_way(&top.join("own/real"), false).unwrap().is_only_ours());
}
