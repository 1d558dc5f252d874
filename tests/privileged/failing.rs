//! Devices that fail and metadata that fills, under a run: it fails, leaves nothing, and the server lives. Each on the storage that it is about; elsewhere
//! there is nothing to test.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::common::{Flavour, Kind, Tool, both, run, text, wait_for_file};
use crate::setting::Scene;

/// Where it begins on what is below, in sectors: LVM would find its label there as well.
const START: u64 = 8192;

/// A device of device-mapper's that can be made to fail.
struct Device {
    name: String,
    below: String,
    sectors: u64,
    _dir: tempfile::TempDir,
}

impl Device {
    fn new(name: &str, mebibytes: u64) -> Device {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len((mebibytes << 20) + (START << 9))
            .unwrap();
        let below = run("losetup", &["--find", "--show", &text(&image)]).trim().to_owned();
        let device = Device {
            name: format!("snapback{name}{}", std::process::id()),
            below,
            sectors: mebibytes << 11,
            _dir: dir,
        };
        run("dmsetup", &["create", &device.name, "--table", &device.linear()]);
        device
    }

    fn path(&self) -> String {
        format!("/dev/mapper/{}", self.name)
    }

    fn linear(&self) -> String {
        format!("0 {} linear {} {START}", self.sectors, self.below)
    }

    fn becomes(&self, table: &str) {
        run("dmsetup", &["suspend", "--noflush", "--nolockfs", &self.name]);
        run("dmsetup", &["load", &self.name, "--table", table]);
        run("dmsetup", &["resume", &self.name]);
    }

    /// It is read, and every write fails (dm-flakey, from its first second on).
    fn takes_no_writes(&self) {
        self.becomes(&format!(
            "0 {} flakey {} {START} 0 3600 1 error_writes",
            self.sectors, self.below
        ));
    }

    fn recovers(&self) {
        self.becomes(&self.linear());
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let quietly = |program: &str, args: &[&str]| drop(std::process::Command::new(program).args(args).output());
        quietly("dmsetup", &["remove", "--retry", &self.name]);
        quietly("losetup", &["--detach", &self.below]);
    }
}

/// The disk that the copy-on-write space is on, and not the server's.
#[test]
fn a_disk_that_fails_under_a_snapshot_gives_no_backup() {
    if !matches!(Kind::chosen(), Kind::Lvm(_)) {
        return;
    }
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    let group = scene.lab.storage.group();
    let disk = Device::new("cow", 512);
    // The group's first disk has no room left for the snapshot.
    run(
        "lvcreate",
        &["-q", "-y", "-W", "n", "-l", "100%FREE", "-n", "rest", group],
    );
    run("pvcreate", &["-q", "--metadatacopies", "0", &disk.path()]);
    run("vgextend", &["-q", group, &disk.path()]);
    let gate = scene.lab.path("gate");
    let child = scene
        .tool
        .spawn(&format!("backup.readable=pause:{}", gate.display()), &["backup"]);
    wait_for_file(&scene.lab.path("gate.reached"));
    disk.takes_no_writes();
    std::fs::write(scene.lab.storage.mount_point().join("db/ballast"), vec![7u8; 20 << 20]).unwrap();
    run("sync", &[]);
    std::fs::write(&gate, "").unwrap();
    let output = child.wait_with_output().unwrap();
    eprintln!("{}", both(&output));
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("or its disk failed"), "{}", both(&output));
    scene.assert_nothing_left();
    scene.assert_writable();
    assert_eq!(scene.backups(), 0);
    disk.recovers();
    scene.tool.json(&["backup"]);
    scene.assert_nothing_left();
    run("vgreduce", &["-q", group, &disk.path()]);
}

/// A volume in the server's pool that LVM does not know, and snapshots of it: what they no longer share takes the pool's metadata.
struct Filler {
    pool: String,
    name: String,
    next: u32,
}

/// Device numbers within the pool that LVM does not come to.
const FIRST: u32 = 1 << 20;
/// Blocks of the pool, in bytes, and how many of them the volume has.
const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 3000;

impl Filler {
    fn new(scene: &Scene) -> Filler {
        let pool = format!("{}-pool-tpool", scene.lab.storage.group());
        let name = format!("snapbackfiller{}", std::process::id());
        run("dmsetup", &["message", &pool, "0", &format!("create_thin {FIRST}")]);
        let table = format!("0 {} thin /dev/mapper/{pool} {FIRST}", BLOCKS * BLOCK / 512);
        run("dmsetup", &["create", &name, "--table", &table]);
        let filler = Filler {
            pool,
            name,
            next: FIRST + 1,
        };
        filler.write(1);
        filler
    }

    /// A little into every so many blocks.
    fn write(&self, every: u64) {
        let device = std::fs::File::options()
            .write(true)
            .open(format!("/dev/mapper/{}", self.name))
            .unwrap();
        for block in (0..BLOCKS).step_by(every.try_into().unwrap()) {
            device.write_all_at(&[7; 4096], block * BLOCK).unwrap();
        }
        device.sync_all().unwrap();
    }

    /// How much of the metadata is used, in hundredths.
    fn used(&self) -> f64 {
        let status = run("dmsetup", &["status", &self.pool]);
        let (used, total) = status.split_whitespace().nth(4).unwrap().split_once('/').unwrap();
        100.0 * used.parse::<f64>().unwrap() / total.parse::<f64>().unwrap()
    }

    fn fill(&mut self, percent: f64) {
        while self.used() < percent {
            run("dmsetup", &["suspend", &self.name]);
            let message = format!("create_snap {} {FIRST}", self.next);
            run("dmsetup", &["message", &self.pool, "0", &message]);
            run("dmsetup", &["resume", &self.name]);
            self.next += 1;
            // About one in each leaf of its tree.
            self.write(120);
        }
        eprintln!(
            "after {} snapshots the metadata is full to {:.1} %",
            self.next - FIRST - 1,
            self.used()
        );
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::process::Command::new("dmsetup")
            .args(["remove", "--retry", &self.name])
            .output();
    }
}

fn thin_scene() -> Option<Scene> {
    (Kind::chosen() == Kind::LvmThin)
        .then(|| Scene::new(Flavour::MariaDb, &[], false, ""))
        .flatten()
}

/// LVM itself makes no snapshot where less than 4 MiB, or a quarter, of the metadata is free.
#[test]
fn a_pool_with_nearly_full_metadata_gets_no_snapshot() {
    let Some(scene) = thin_scene() else { return };
    let mut filler = Filler::new(&scene);
    filler.fill(77.0);
    let volume = format!("{}/db", scene.lab.storage.group());
    let by_hand = std::process::Command::new("lvcreate")
        .args(["--snapshot", "--yes", "--name", "by-hand", &volume])
        .output()
        .unwrap();
    eprintln!("{}", both(&by_hand));
    assert!(!by_hand.status.success(), "{}", both(&by_hand));
    let output = scene.tool.run(&["check"]);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    let said = both(&output);
    assert!(
        said.contains("(metadata)") && said.contains("--poolmetadatasize"),
        "{said}"
    );
    let output = scene.tool.run(&["backup"]);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    scene.assert_nothing_left();
    scene.assert_writable();
    assert_eq!(scene.backups(), 0);
}

#[test]
fn metadata_that_fills_while_it_is_copied_lets_the_snapshot_go() {
    let Some(scene) = thin_scene() else { return };
    let mut filler = Filler::new(&scene);
    let gate = scene.lab.path("gate");
    let child = scene
        .tool
        .spawn(&format!("backup.readable=pause:{}", gate.display()), &["backup"]);
    wait_for_file(&scene.lab.path("gate.reached"));
    filler.fill(97.2);
    std::fs::write(&gate, "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("the snapshot is given up"), "{}", both(&output));
    scene.assert_nothing_left();
    scene.assert_writable();
    assert_eq!(scene.backups(), 0);
}

/// A pool on one device that can be made to fail, with files that are backed up, and nothing of them in ZFS's cache.
struct Fragile {
    pool: String,
    top: std::path::PathBuf,
    tool: Tool,
    loop_device: String,
    // After the pool.
    disk: Device,
    dir: tempfile::TempDir,
}

impl Fragile {
    fn new(mode: &str) -> Option<Fragile> {
        if Kind::chosen() != Kind::Zfs {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("snapback-test-").tempdir().unwrap();
        let disk = Device::new("pool", 512);
        // ZFS would make partitions on the device itself.
        let loop_device = run("losetup", &["--find", "--show", "--direct-io=on", &disk.path()])
            .trim()
            .to_owned();
        let pool = format!("snapbackfragile{}", std::process::id());
        let top = dir.path().join("mnt");
        let failmode = format!("failmode={mode}");
        let cache = "primarycache=none";
        run(
            "zpool",
            &[
                "create",
                "-f",
                "-o",
                &failmode,
                "-O",
                cache,
                "-m",
                &text(&top),
                &pool,
                &loop_device,
            ],
        );
        std::fs::create_dir(top.join("files")).unwrap();
        let content: Vec<u8> = (0..16_u32 << 20)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        std::fs::write(top.join("files/one"), content).unwrap();
        run("zpool", &["sync", &pool]);
        let tool = Tool::bare(
            dir.path(),
            &format!("server: none\nfiles: [{}]\n", top.join("files").display()),
        );
        tool.ok(&["init", "--repository", &text(&tool.repository)]);
        Some(Fragile {
            pool,
            top,
            tool,
            loop_device,
            disk,
            dir,
        })
    }

    /// Every read and write fails, and ZFS has seen it: it suspends the pool, or tries again and again, which comes to the same for whoever waits for a
    /// transaction group. Without its daemon that declares devices faulty (zed) it was seen to do the latter, whatever `failmode` is.
    fn fails(&self) {
        self.disk.becomes(&format!("0 {} error", self.disk.sectors));
        let (top, pool) = (self.top.clone(), self.pool.clone());
        // They may not come back before the pool does.
        std::thread::spawn(move || std::fs::write(top.join("more"), [7; 4096]));
        std::thread::spawn(move || std::process::Command::new("zpool").args(["sync", &pool]).output());
        let begun = Instant::now();
        let device = self.loop_device.trim_start_matches("/dev/");
        let seen = || {
            let status = run("zpool", &["status", "-p", &self.pool]);
            let of_device = status.lines().find(|line| line.trim_start().starts_with(device));
            let writes_failed = of_device.is_some_and(|line| line.split_whitespace().nth(3) != Some("0"));
            writes_failed || self.state() == "SUSPENDED"
        };
        while !seen() {
            assert!(
                begun.elapsed() < Duration::from_secs(240),
                "the pool is {}",
                self.state()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn state(&self) -> String {
        run("zpool", &["list", "-H", "-o", "health", &self.pool])
            .trim()
            .to_owned()
    }

    fn recovers(&self) {
        self.disk.recovers();
        let begun = Instant::now();
        while self.state() != "ONLINE" {
            assert!(
                begun.elapsed() < Duration::from_secs(240),
                "the pool is {}",
                self.state()
            );
            let _ = std::process::Command::new("zpool").args(["clear", &self.pool]).output();
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Once the pool is back, `cleanup` leaves nothing; then there is a good backup.
    fn ends_well(&self) {
        self.recovers();
        let begun = Instant::now();
        loop {
            let report = self.tool.json_with(&["cleanup"], &[0, 1, 5]);
            if report["runs"].as_array().unwrap().is_empty() {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(240), "{report}");
            std::thread::sleep(Duration::from_millis(500));
        }
        // What a command that ran on made is gone as well.
        let left = run("zfs", &["list", "-H", "-t", "snapshot", "-o", "name", "-r", &self.pool]);
        assert_eq!(left.trim(), "");
        assert_eq!(self.tool.json(&["list"]).as_array().unwrap().len(), 0);
        self.tool.json(&["backup"]);
        self.tool.ok(&["verify", "latest", "--level", "data"]);
    }

    fn backup_with(&self, failpoints: &str, gate: &str) -> std::process::Child {
        let gate = self.dir.path().join(gate);
        let child = self
            .tool
            .spawn(&format!("{failpoints}=pause:{}", gate.display()), &["backup"]);
        let reached = gate.with_extension("reached");
        wait_for_file(&reached);
        child
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        let quietly = |program: &str, args: &[&str]| drop(std::process::Command::new(program).args(args).output());
        self.disk.recovers();
        quietly("zpool", &["clear", &self.pool]);
        quietly("zpool", &["destroy", "-f", &self.pool]);
        quietly("losetup", &["--detach", &self.loop_device]);
    }
}

/// `zfs snapshot` never comes back: the run ends at its limits all the same, and what is made once the pool is back is known to `cleanup`.
fn fails_at_the_instant(mode: &str) {
    let Some(fragile) = Fragile::new(mode) else { return };
    let child = fragile.backup_with("zfs.impatient=error;zfs.at-brink", "gate");
    fragile.fails();
    std::fs::write(fragile.dir.path().join("gate"), "").unwrap();
    let begun = Instant::now();
    let output = child.wait_with_output().unwrap();
    eprintln!("{mode}: ended after {:?}: {}", begun.elapsed(), both(&output));
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    fragile.ends_well();
}

#[test]
fn a_pool_that_fails_at_the_instant_and_waits() {
    fails_at_the_instant("wait");
}

#[test]
fn a_pool_that_fails_at_the_instant_and_continues() {
    fails_at_the_instant("continue");
}

/// The pool, or the file that could not be read.
fn says_why(output: &std::process::Output) -> bool {
    let said = both(output);
    said.to_lowercase().contains("suspended") || said.contains("files/one")
}

/// Reads fail, or the question after the snapshot's health: the run ends by itself.
#[test]
fn a_pool_that_fails_while_it_is_copied_and_continues() {
    let Some(fragile) = Fragile::new("continue") else {
        return;
    };
    let child = fragile.backup_with("backup.readable", "gate");
    fragile.fails();
    std::fs::write(fragile.dir.path().join("gate"), "").unwrap();
    let begun = Instant::now();
    let output = child.wait_with_output().unwrap();
    eprintln!("ended after {:?}: {}", begun.elapsed(), both(&output));
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(says_why(&output), "{}", both(&output));
    fragile.ends_well();
}

/// Reads fail, or wait in the kernel until the pool is back, which no signal changes: then the run ends, without a backup.
#[test]
fn a_pool_that_fails_while_it_is_copied_and_waits() {
    let Some(fragile) = Fragile::new("wait") else { return };
    let mut child = fragile.backup_with("backup.readable", "gate");
    fragile.fails();
    std::fs::write(fragile.dir.path().join("gate"), "").unwrap();
    // Longer than between two looks at the snapshots' health.
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(100));
    }
    eprintln!("the pool is {}", fragile.state());
    fragile.recovers();
    let output = child.wait_with_output().unwrap();
    eprintln!("{}", both(&output));
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(says_why(&output), "{}", both(&output));
    fragile.ends_well();
}
