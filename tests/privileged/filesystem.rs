//! Freezing real filesystems, and reading copies whose journal is not clean: needs root, loop devices, ext4 and XFS. Nothing but the test's own filesystems is
//! frozen.
#![allow(missing_docs, clippy::print_stderr, unused_imports)]

#[path = "../common/mod.rs"]
mod common;
#[path = "full_disk.rs"]
mod full_disk;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{missing, run, text};
use snapback::cleanup::{Request, cleanup};
use snapback::config::Config;
use snapback::journal::{Journal, Made};
use snapback::monitor::Silent;
use snapback::sys::freeze::Freezer;
use snapback::sys::mount::{mount_read_only, unmount};
use snapback::sys::signal::Cancel;
use snapback::units::Id;

/// A small filesystem on a loop image; thawed, unmounted and detached when it is dropped.
struct Filesystem {
    device: String,
    top: PathBuf,
    dir: tempfile::TempDir,
}

impl Filesystem {
    fn new(kind: &str) -> Option<Filesystem> {
        if !rustix::process::geteuid().is_root() {
            missing("root");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("snapback-test-").tempdir().unwrap();
        let (image, top) = (dir.path().join("image"), dir.path().join("mnt"));
        File::create(&image).and_then(|file| file.set_len(400 << 20)).unwrap();
        std::fs::create_dir(&top).unwrap();
        let flags: &[&str] = if kind == "ext4" { &["-q", "-F"] } else { &["-q"] };
        run(&format!("mkfs.{kind}"), &[flags, &[&text(&image)]].concat());
        let device = run("losetup", &["--find", "--show", &text(&image)]).trim().to_owned();
        run("mount", &[&device, &text(&top)]);
        Some(Filesystem { device, top, dir })
    }

    /// Whether a write gets through within half a second.
    fn writable(&self) -> bool {
        writable(&self.top)
    }
}

fn writable(top: &Path) -> bool {
    let path = top.join("probe");
    let (told, tell) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let written = File::create(path).and_then(|mut file| file.write_all(b"x").and_then(|()| file.sync_all()));
        let _ = told.send(written.is_ok());
    });
    tell.recv_timeout(Duration::from_millis(500)).unwrap_or(false)
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        // Where a test went wrong; an error where it is not frozen.
        let _ = Command::new("fsfreeze").args(["--unfreeze", &text(&self.top)]).output();
        for _ in 0..50 {
            if Command::new("umount")
                .arg(&self.top)
                .output()
                .is_ok_and(|output| output.status.success())
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = Command::new("losetup").args(["--detach", &self.device]).output();
    }
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn several_filesystems_are_frozen_until_they_are_thawed() {
    let (Some(one), Some(two)) = (Filesystem::new("ext4"), Filesystem::new("xfs")) else {
        return;
    };
    let mut freezer = Freezer::prepare(&[one.top.clone(), two.top.clone()], LONG).unwrap();
    assert!(one.writable() && two.writable(), "frozen too early");
    freezer.freeze().unwrap();
    assert!(!one.writable() && !two.writable(), "not frozen");
    freezer.thaw().unwrap();
    assert!(one.writable() && two.writable(), "not thawed");
}

#[test]
fn a_filesystem_is_thawed_at_the_limit_and_that_is_told() {
    let Some(one) = Filesystem::new("xfs") else { return };
    let mut freezer = Freezer::prepare(std::slice::from_ref(&one.top), Duration::from_millis(900)).unwrap();
    freezer.freeze().unwrap();
    let begun = Instant::now();
    assert!(!one.writable());
    std::thread::sleep(Duration::from_millis(700));
    assert!(one.writable(), "frozen for {:?}", begun.elapsed());
    let error = freezer.thaw().unwrap_err().to_string();
    assert!(error.contains("keep frozen"), "{error}");
}

#[test]
fn what_somebody_else_thawed_is_told() {
    let Some(one) = Filesystem::new("ext4") else { return };
    let mut freezer = Freezer::prepare(std::slice::from_ref(&one.top), LONG).unwrap();
    freezer.freeze().unwrap();
    run("fsfreeze", &["--unfreeze", &text(&one.top)]);
    let error = freezer.thaw().unwrap_err().to_string();
    assert!(error.contains("keep frozen"), "{error}");
    assert!(one.writable());
}

#[test]
fn where_one_cannot_be_frozen_the_others_are_thawed() {
    let Some(one) = Filesystem::new("ext4") else { return };
    // Never frozen: procfs cannot be.
    let mut freezer = Freezer::prepare(&[one.top.clone(), PathBuf::from("/proc")], LONG).unwrap();
    let error = freezer.freeze().unwrap_err().to_string();
    assert!(error.contains("/proc"), "{error}");
    assert!(one.writable());
}

#[test]
fn a_freezer_that_is_dropped_thaws() {
    let Some(one) = Filesystem::new("ext4") else { return };
    let mut freezer = Freezer::prepare(std::slice::from_ref(&one.top), LONG).unwrap();
    freezer.freeze().unwrap();
    drop(freezer);
    assert!(one.writable());
}

#[test]
fn our_own_sigkill_thaws() {
    let Some(one) = Filesystem::new("xfs") else { return };
    let begun = Instant::now();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "freezes_and_dies"])
        .env("SNAPBACK_TEST_FREEZE", &one.top)
        .output()
        .unwrap()
        .status;
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9),
        "{status}"
    );
    assert!(one.writable(), "left frozen");
    assert!(begun.elapsed() < LONG / 2, "only thawed at the limit");
}

#[test]
#[ignore = "run by our_own_sigkill_thaws"]
fn freezes_and_dies() {
    let top = PathBuf::from(std::env::var_os("SNAPBACK_TEST_FREEZE").unwrap());
    let mut freezer = Freezer::prepare(std::slice::from_ref(&top), LONG).unwrap();
    freezer.freeze().unwrap();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}

/// SIGKILL to the keepers that this process forked, as from `systemctl kill` or the kernel's OOM killer.
fn kill_keepers() {
    let own = std::process::id().to_string();
    let mut killed = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        // proc(5): `pid (name) state ppid`.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((head, rest)) = stat.split_once(") ") else {
            continue;
        };
        if head.ends_with("(snapback-freeze") && rest.split(' ').nth(1) == Some(&own) {
            let pid = rustix::process::Pid::from_raw(head.split(' ').next().unwrap().parse().unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            killed += 1;
        }
    }
    assert!(killed > 0, "no keeper was found");
}

#[test]
fn a_keeper_that_is_killed_is_stood_in_for() {
    let (Some(one), Some(two)) = (Filesystem::new("ext4"), Filesystem::new("xfs")) else {
        return;
    };
    let mut freezer = Freezer::prepare(&[one.top.clone(), two.top.clone()], LONG).unwrap();
    freezer.freeze().unwrap();
    kill_keepers();
    let error = freezer.thaw().unwrap_err().to_string();
    assert!(error.contains("keep frozen"), "{error}");
    assert!(one.writable() && two.writable(), "left frozen");
}

#[test]
fn cleanup_thaws_what_a_run_and_its_keepers_left_frozen() {
    for kind in ["ext4", "xfs"] {
        let Some(one) = Filesystem::new(kind) else { return };
        let state = one.dir.path().join("state");
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "freezes_and_dies_with_its_keepers"])
            .env("SNAPBACK_TEST_FREEZE", &one.top)
            .env("SNAPBACK_TEST_STATE", &state)
            .output()
            .unwrap()
            .status;
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9),
            "{status}"
        );
        assert!(!one.writable(), "nothing was left frozen: this shows nothing");
        let config = Config {
            state_dir: state.clone(),
            ..Config::default()
        };
        let request = Request {
            dry_run: true,
            ..Request::default()
        };
        cleanup(&config, &request, &Silent, &Cancel::new()).unwrap();
        assert!(!one.writable(), "a dry run thawed it");
        let report = cleanup(&config, &Request::default(), &Silent, &Cancel::new()).unwrap();
        assert!(one.writable(), "left frozen");
        let said = format!("frozen filesystem {}", one.top.display());
        assert_eq!(
            (report.runs[0].removed.clone(), report.runs[0].failed.clone()),
            (vec![said], vec![])
        );
        assert_eq!(std::fs::read_dir(state.join("runs")).unwrap().count(), 0);
    }
}

#[test]
#[ignore = "run by cleanup_thaws_what_a_run_and_its_keepers_left_frozen"]
fn freezes_and_dies_with_its_keepers() {
    let top = PathBuf::from(std::env::var_os("SNAPBACK_TEST_FREEZE").unwrap());
    let state = PathBuf::from(std::env::var_os("SNAPBACK_TEST_STATE").unwrap());
    let journal = Journal::create(&state, Id::random()).unwrap();
    journal.record(&Made::Frozen { top: top.clone() }).unwrap();
    let mut freezer = Freezer::prepare(std::slice::from_ref(&top), LONG).unwrap();
    freezer.freeze().unwrap();
    kill_keepers();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}

/// A copy of the disk of a filesystem in use, with a journal that has not been worked off: what a snapshot is where nothing was frozen.
/// Its files are whole when it is mounted as snapshots are; mounted without the journal's replay they are not, which is why `noload` and `norecovery` are not used.
fn files_in_an_unclean_copy(kind: &str, options: &str, without_replay: &str) {
    const FILES: usize = 200;
    let Some(live) = Filesystem::new(kind) else { return };
    for number in 0..FILES {
        let mut file = File::create(live.top.join(format!("file-{number}"))).unwrap();
        file.write_all(&[number as u8; 5000]).unwrap();
        file.sync_all().unwrap();
    }
    // All of it is in the journal by now, and on the disk; the filesystem's own places have little of it.
    // From below the loop device: reading the device would show what ext4 keeps in memory.
    let copy = live.dir.path().join("copy");
    std::fs::copy(live.dir.path().join("image"), &copy).unwrap();
    let whole = |options: &str, name: &str| {
        let image = live.dir.path().join(name);
        std::fs::copy(&copy, &image).unwrap();
        let device = run("losetup", &["--find", "--show", &text(&image)]).trim().to_owned();
        let at = live.dir.path().join(format!("{name}-at"));
        let mounted = mount_read_only(Path::new(&device), &at, kind, options);
        let good = |number: &usize| {
            std::fs::read(at.join(format!("file-{number}"))).is_ok_and(|bytes| bytes == vec![*number as u8; 5000])
        };
        let whole = mounted.map(|()| (0..FILES).filter(good).count());
        if whole.is_ok() {
            unmount(&at).unwrap();
        }
        run("losetup", &["--detach", &device]);
        whole
    };
    assert_eq!(whole(options, "replayed").unwrap(), FILES);
    let without = whole(without_replay, "bare").unwrap_or(0);
    assert!(without < FILES, "the copy was clean: this shows nothing");
}

#[test]
fn an_ext4_snapshot_with_an_unclean_journal_is_read_whole() {
    files_in_an_unclean_copy("ext4", "", "noload");
}

#[test]
fn an_xfs_snapshot_with_an_unclean_log_is_read_whole() {
    files_in_an_unclean_copy("xfs", "nouuid", "nouuid,norecovery");
}
