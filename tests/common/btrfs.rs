//! A Btrfs filesystem on a loop image; unmounted and detached when it is dropped, also on a panic.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{missing, run, text};

pub struct BtrfsImage {
    device: String,
    mount_point: PathBuf,
}

impl BtrfsImage {
    pub fn new(dir: &Path, size: u64) -> Option<BtrfsImage> {
        let known = std::fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("btrfs"));
        let tools = Command::new("mkfs.btrfs").arg("--version").output().is_ok();
        if !known || !tools {
            missing("Btrfs (the kernel's, and mkfs.btrfs)");
            return None;
        }
        let image = dir.join("btrfs.img");
        let mount_point = dir.join("mnt");
        File::create(&image).and_then(|file| file.set_len(size)).unwrap();
        std::fs::create_dir(&mount_point).unwrap();
        run("mkfs.btrfs", &["-q", &text(&image)]);
        let device = run("losetup", &["--find", "--show", &text(&image)]).trim().to_owned();
        let image = BtrfsImage { device, mount_point };
        run("mount", &["-o", "noatime", &image.device, &text(&image.mount_point)]);
        Some(image)
    }

    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    pub fn device(&self) -> &str {
        &self.device
    }

    /// The names of our snapshots that exist anywhere on the filesystem.
    pub fn snapshots(&self) -> Vec<String> {
        let listed = run("btrfs", &["subvolume", "list", &text(&self.mount_point)]);
        let names = listed.lines().filter_map(|line| line.split(" path ").nth(1));
        names
            .filter(|name| name.contains("snapback-"))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for BtrfsImage {
    fn drop(&mut self) {
        for _ in 0..50 {
            let _ = Command::new("umount").arg(&self.mount_point).output();
            let mounted =
                std::fs::read_to_string("/proc/mounts").is_ok_and(|mounts| mounts.contains(&text(&self.mount_point)));
            if !mounted {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        let _ = Command::new("losetup").args(["--detach", &self.device]).output();
    }
}
