//! Input/output errors, the kernel's own, at whatever place they come. A loop device on a sparse image in a tmpfs that is full answers writes with EIO; Btrfs answers
//! reads so where a checksum is wrong. A backup then fails or is whole; the next one, on a disk that works, is whole.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Random;
use crate::common::{Lab, Tool, both, rounds, run, text, wait_for};

/// Btrfs's block.
const BLOCK: usize = 4096;

/// A filesystem on a loop device whose image lies in a tmpfs of its own.
struct Disk {
    top: PathBuf,
    device: String,
    image: PathBuf,
}

impl Disk {
    fn new(lab: &Lab, mkfs: &[&str], bytes: u64) -> Disk {
        let top = lab.path("disk");
        let (below, at) = (top.join("below"), top.join("at"));
        for directory in [&top, &below, &at] {
            std::fs::create_dir(directory).unwrap();
        }
        run("mount", &["-t", "tmpfs", "-o", "size=1g", "tmpfs", &text(&below)]);
        let image = below.join("image");
        File::create(&image).and_then(|file| file.set_len(bytes)).unwrap();
        run(mkfs[0], &[&mkfs[1..], &[&text(&image)]].concat());
        let device = run("losetup", &["--find", "--show", &text(&image)]).trim().to_owned();
        run("mount", &["-o", "noatime", &device, &text(&at)]);
        Disk { top, device, image }
    }

    /// As after a reboot: what the kernel knew of it is forgotten, and the filesystem is put in order.
    fn reboot(&self) {
        unmount(&self.at());
        let checked = Command::new("e2fsck")
            .args(["-f", "-y", &self.device])
            .output()
            .unwrap();
        assert!(matches!(checked.status.code(), Some(0..=2)), "{}", both(&checked));
        run("mount", &["-o", "noatime", &self.device, &text(&self.at())]);
    }

    fn at(&self) -> PathBuf {
        self.top.join("at")
    }

    /// How much the image may hold: less, and writes to blocks that it does not hold yet fail.
    fn room(&self, kib: u64) {
        run(
            "mount",
            &["-o", &format!("remount,size={kib}k"), &text(&self.top.join("below"))],
        );
    }

    fn used_kib(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(&self.image).unwrap().blocks() / 2
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.at());
        let _ = Command::new("losetup").args(["--detach", &self.device]).output();
        unmount(&self.top.join("below"));
    }
}

fn unmount(at: &Path) {
    for _ in 0..50 {
        if Command::new("umount")
            .arg(at)
            .output()
            .is_ok_and(|it| it.status.success())
        {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Nothing is read from the page cache any more.
fn forget_pages() {
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

fn tool(lab: &Lab, repository: &Path, tree: &Path) -> Tool {
    let mut tool = Tool::bare(lab.dir.path(), &format!("server: none\nfiles: [{}]\n", text(tree)));
    let yaml = std::fs::read_to_string(&tool.config).unwrap();
    let yaml = yaml.replace(&text(&tool.repository), &text(repository));
    std::fs::write(&tool.config, yaml).unwrap();
    tool.repository = repository.to_owned();
    tool.ok(&["init", "--repository", &text(repository)]);
    tool
}

/// Bytes that nothing compresses.
fn fill(tree: &Path, random: &mut Random, files: usize) {
    for file in 0..files {
        let bytes: Vec<u8> = (0..65_536).map(|_| random.below(256) as u8).collect();
        std::fs::write(tree.join(format!("f{file}")), bytes.repeat(4)).unwrap();
    }
}

#[test]
fn writes_that_fail_cost_no_backup_that_is_there() {
    let Some(lab) = Lab::new() else { return };
    let mut random = Random::new();
    let tree = lab.storage.volume("files");
    let mkfs = ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,nodiscard"];
    let disk = Disk::new(&lab, &mkfs, 400 << 20);
    let tool = tool(&lab, &disk.at().join("repository"), &tree);
    let listed = || tool.json(&["list"]).as_array().unwrap().len();
    fill(&tree, &mut random, 4);
    tool.json(&["backup"]);
    let (mut failed, mut done) = (0, 0);
    for round in 0..rounds(6) {
        fill(&tree, &mut random, 8);
        let before = listed();
        disk.room(disk.used_kib() + random.below(4_000));
        let output = tool.run(&["--quiet", "backup"]);
        disk.room(1 << 20);
        disk.reboot();
        let (status, after) = (output.status.code(), listed());
        match status {
            Some(0 | 5) => {
                done += 1;
                assert_eq!(
                    after,
                    before + 1,
                    "round {round}: done, and not listed: {}",
                    both(&output)
                );
            }
            Some(1) => {
                failed += 1;
                assert!(after >= before, "round {round}: a backup is gone: {}", both(&output));
            }
            _ => panic!("round {round}: {}", both(&output)),
        }
        tool.ok(&["verify", "--all", "--level", "data"]);
        if round % 40 == 39 {
            // Room for the next rounds.
            std::fs::remove_dir_all(&tool.repository).unwrap();
            tool.ok(&["init", "--repository", &text(&tool.repository)]);
            tool.json(&["backup"]);
        }
    }
    eprintln!("{failed} backups failed, {done} were done");
    assert!(failed > 0, "no write failed");
    tool.json(&["backup"]);
    tool.ok(&["verify", "--all", "--level", "data"]);
}

#[test]
fn reads_that_fail_are_named_and_nothing_is_given_out_as_whole() {
    let Some(lab) = Lab::new() else { return };
    let mut random = Random::new();
    let tree = lab.storage.volume("files");
    fill(&tree, &mut random, 8);
    let disk = Disk::new(&lab, &["mkfs.btrfs", "-q", "-m", "dup", "-d", "single"], 200 << 20);
    let tool = tool(&lab, &disk.at().join("repository"), &tree);
    tool.json(&["backup"]);
    run("sync", &["-f", &text(&disk.at())]);
    // Where the packs lie: their first bytes are looked for in the image.
    let packs = packs(&tool.repository.join("packs"));
    let image = File::options().read(true).write(true).open(&disk.image).unwrap();
    let whole = std::fs::read(&disk.image).unwrap();
    let mut failed = 0;
    for round in 0..rounds(6) {
        let pack = &packs[random.below(packs.len() as u64) as usize];
        let content = std::fs::read(pack).unwrap();
        let block = random.below(content.len() as u64) as usize / BLOCK * BLOCK;
        let piece = &content[block..content.len().min(block + BLOCK)];
        let place = whole.chunks(BLOCK).position(|there| there.starts_with(piece));
        let place = (place.expect("the pack in the image") * BLOCK) as u64;
        image.write_all_at(b"spoiled!", place).unwrap();
        wait_for("the kernel reads the pack anew", || {
            forget_pages();
            std::fs::read(pack).is_err()
        });
        let restored = lab.path("restored");
        let _ = std::fs::remove_dir_all(&restored);
        let verify = tool.run(&["--quiet", "verify", "--all", "--level", "data"]);
        let restore = tool.run(&["--quiet", "restore", "latest", "--target", &text(&restored)]);
        assert!(
            matches!(verify.status.code(), Some(1 | 4)),
            "round {round}: {}",
            both(&verify)
        );
        if restore.status.success() {
            let top = restored.join(tree.strip_prefix("/").unwrap());
            for file in 0..8 {
                let name = format!("f{file}");
                let same = std::fs::read(top.join(&name)).unwrap() == std::fs::read(tree.join(&name)).unwrap();
                assert!(same, "round {round}: {name} is wrong");
            }
        } else {
            failed += 1;
            assert!(
                both(&restore).contains("Input/output error"),
                "round {round}: {}",
                both(&restore)
            );
        }
        image
            .write_all_at(&whole[place as usize..place as usize + 8], place)
            .unwrap();
        forget_pages();
        // The disk is well again, and so is every verdict.
        tool.ok(&["verify", "--all", "--level", "data"]);
    }
    eprintln!("{failed} restores failed");
    assert!(failed > 0, "no read failed");
}

/// Those that have blocks of their own: Btrfs keeps what is small beside its names.
fn packs(directory: &Path) -> Vec<PathBuf> {
    let entries = |directory: &Path| std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries(directory)
        .filter(|at| at.is_dir())
        .flat_map(|at| entries(&at).collect::<Vec<_>>())
        .filter(|pack| std::fs::metadata(pack).unwrap().len() > 1 << 16)
        .collect()
}
