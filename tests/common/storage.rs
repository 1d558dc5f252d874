//! Real storage on a loop image; unmounted, taken apart and detached when it is dropped, also on a panic.
//!
//! `SNAPBACK_TEST_STORAGE` says which: `btrfs` (the default), `lvm` (thick, ext4), `lvm-xfs`, `lvm-thin`, `zfs` or `zvol`; the same tests run on each. LVM and ZFS need
//! the lab's guest (`scripts/lab/vm`).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{missing, run, text};

/// The size of a thin pool.
pub const POOL_MIB: u32 = 1200;

/// What kind of storage the tests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Btrfs,
    /// Thick logical volumes with this filesystem.
    Lvm(&'static str),
    LvmThin,
    Zfs,
    /// ext4 on ZFS volumes.
    Zvol,
}

impl Kind {
    pub fn chosen() -> Kind {
        match std::env::var("SNAPBACK_TEST_STORAGE").as_deref() {
            Err(_) | Ok("btrfs") => Kind::Btrfs,
            Ok("lvm") => Kind::Lvm("ext4"),
            Ok("lvm-xfs") => Kind::Lvm("xfs"),
            Ok("lvm-thin") => Kind::LvmThin,
            Ok("zfs") => Kind::Zfs,
            Ok("zvol") => Kind::Zvol,
            Ok(other) => panic!("SNAPBACK_TEST_STORAGE={other} is not known"),
        }
    }

    /// The failpoints of its snapshots: just before the decisive call, and at the removal.
    pub fn failpoints(self) -> (&'static str, &'static str) {
        match self {
            Kind::Btrfs => ("btrfs.before-snapshot", "btrfs.remove"),
            Kind::Lvm(_) | Kind::LvmThin => ("lvm.at-brink", "lvm.remove"),
            Kind::Zfs | Kind::Zvol => ("zfs.at-brink", "zfs.remove"),
        }
    }

    fn facility(self) -> Option<&'static str> {
        let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
        let known = |name: &str| std::fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains(name));
        let dm = || std::fs::read_to_string("/proc/devices").is_ok_and(|text| text.contains("device-mapper"));
        match self {
            Kind::Btrfs if !known("btrfs") || !has("mkfs.btrfs") => Some("Btrfs (the kernel's, and mkfs.btrfs)"),
            Kind::Lvm(_) | Kind::LvmThin if !dm() || !has("lvs") => Some("LVM (device-mapper, and lvm2)"),
            Kind::Zfs | Kind::Zvol if !known("zfs") || !has("zfs") => Some("ZFS"),
            _ => None,
        }
    }
}

pub struct Storage {
    pub kind: Kind,
    device: String,
    mount_point: PathBuf,
    /// Of the volume group or pool.
    group: String,
    volumes: std::cell::RefCell<Vec<PathBuf>>,
}

impl Storage {
    pub fn new(dir: &Path, size: u64) -> Option<Storage> {
        Storage::of(Kind::chosen(), dir, size)
    }

    /// Another one, whatever was chosen.
    pub fn of(kind: Kind, dir: &Path, size: u64) -> Option<Storage> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        if let Some(facility) = kind.facility() {
            missing(facility);
            return None;
        }
        let image = dir.join("storage.img");
        let mount_point = dir.join("mnt");
        File::create(&image).and_then(|file| file.set_len(size)).unwrap();
        std::fs::create_dir(&mount_point).unwrap();
        if kind == Kind::Btrfs {
            run("mkfs.btrfs", &["-q", &text(&image)]);
        }
        let device = run("losetup", &["--find", "--show", &text(&image)]).trim().to_owned();
        let storage = Storage {
            kind,
            device,
            mount_point,
            group: format!("snapbacktest{}x{number}", std::process::id()),
            volumes: std::cell::RefCell::default(),
        };
        storage.prepare();
        Some(storage)
    }

    fn prepare(&self) {
        let (device, group) = (self.device.as_str(), self.group.as_str());
        match self.kind {
            Kind::Btrfs => {
                run("mount", &["-o", "noatime", device, &text(&self.mount_point)]);
            }
            Kind::Lvm(_) => {
                run("vgcreate", &["-q", group, device]);
            }
            Kind::LvmThin => {
                run("vgcreate", &["-q", group, device]);
                run(
                    "lvcreate",
                    &[
                        "-q",
                        "-y",
                        "--type",
                        "thin-pool",
                        "-L",
                        &format!("{POOL_MIB}M"),
                        "-n",
                        "pool",
                        group,
                    ],
                );
            }
            Kind::Zfs | Kind::Zvol => {
                run(
                    "zpool",
                    &[
                        "create",
                        "-f",
                        "-O",
                        "atime=off",
                        "-m",
                        &text(&self.mount_point),
                        group,
                        device,
                    ],
                );
            }
        }
    }

    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    pub fn device(&self) -> &str {
        &self.device
    }

    /// Of the volume group or pool.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// A new subvolume, logical volume or dataset, to be seen below the mount point.
    pub fn volume(&self, name: &str) -> PathBuf {
        let path = self.mount_point.join(name);
        let group = self.group.as_str();
        let lv = format!("/dev/{group}/{name}");
        let mount = |fs: &str, device: &str| {
            let quiet: &[&str] = if fs == "xfs" { &["-q"] } else { &["-q", "-F"] };
            run(&format!("mkfs.{fs}"), &[quiet, &[device]].concat());
            std::fs::create_dir_all(&path).unwrap();
            run("mount", &["-o", "noatime", device, &text(&path)]);
            // A server's datadir is not the filesystem's top, which may have lost+found.
        };
        match self.kind {
            Kind::Btrfs => {
                run("btrfs", &["subvolume", "create", &text(&path)]);
            }
            Kind::Lvm(fs) => {
                run("lvcreate", &["-q", "-y", "-W", "n", "-L", "1G", "-n", name, group]);
                mount(fs, &lv);
            }
            Kind::LvmThin => {
                run(
                    "lvcreate",
                    &["-q", "-y", "-V", "1G", "--thinpool", "pool", "-n", name, group],
                );
                mount("ext4", &lv);
            }
            Kind::Zfs => {
                run("zfs", &["create", &format!("{group}/{name}")]);
            }
            Kind::Zvol => {
                run("zfs", &["create", "-s", "-V", "1G", &format!("{group}/{name}")]);
                run("udevadm", &["settle"]);
                mount("ext4", &format!("/dev/zvol/{group}/{name}"));
            }
        }
        self.volumes.borrow_mut().push(path.clone());
        path
    }

    /// The names of our snapshots that exist anywhere on the storage.
    pub fn snapshots(&self) -> Vec<String> {
        let listed = match self.kind {
            Kind::Btrfs => run("btrfs", &["subvolume", "list", &text(&self.mount_point)])
                .lines()
                .filter_map(|line| line.split(" path ").nth(1).map(str::to_owned))
                .collect(),
            Kind::Lvm(_) | Kind::LvmThin => lines(&run("lvs", &["--noheadings", "-o", "lv_name", &self.group])),
            // Clones as well.
            Kind::Zfs | Kind::Zvol => lines(&run(
                "zfs",
                &["list", "-H", "-r", "-t", "all", "-o", "name", &self.group],
            )),
        };
        let ours = |name: &String| name.contains("snapback-");
        listed.into_iter().filter(ours).collect()
    }

    /// Whether a rollback uses the set up that it goes back to.
    pub fn uses_up(&self) -> bool {
        matches!(self.kind, Kind::Lvm(_))
    }

    /// Waits until LVM has merged what a rollback brought back; elsewhere there is nothing to wait for.
    pub fn wait_until_merged(&self) {
        let merging = || {
            let attributes = run("lvs", &["--noheadings", "-a", "-o", "lv_attr", &self.group]);
            lines(&attributes).iter().any(|one| one.starts_with(['O', 'S']))
        };
        while self.uses_up() && merging() {
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
    }

    /// Destroys a snapshot behind the tool's back.
    pub fn destroy(&self, name: &str) {
        match self.kind {
            Kind::Btrfs => run("btrfs", &["subvolume", "delete", &text(&self.mount_point.join(name))]),
            Kind::Lvm(_) | Kind::LvmThin => run("lvremove", &["-f", "-y", &format!("{}/{name}", self.group)]),
            Kind::Zfs | Kind::Zvol => run("zfs", &["destroy", name]),
        };
    }

    fn take_apart(&self) {
        let quietly = |program: &str, args: &[&str]| drop(Command::new(program).args(args).output());
        match self.kind {
            Kind::Btrfs => {}
            Kind::Lvm(_) | Kind::LvmThin => {
                for path in self.volumes.borrow().iter() {
                    quietly("umount", &["-R", &text(path)]);
                }
                quietly("vgremove", &["-f", "-y", &self.group]);
                quietly("pvremove", &["-f", "-y", &self.device]);
            }
            Kind::Zfs | Kind::Zvol => {
                if self.kind == Kind::Zvol {
                    for path in self.volumes.borrow().iter() {
                        quietly("umount", &["-R", &text(path)]);
                    }
                }
                quietly("zpool", &["destroy", "-f", &self.group]);
            }
        }
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).collect()
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.take_apart();
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
