//! A Btrfs on a loop image of its own; unmounted and detached when dropped, also after a panic.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted Btrfs and what else was mounted of it.
pub struct Lab {
    dir: tempfile::TempDir,
    device: String,
    uuid: String,
    /// In the order of mounting.
    mounts: Vec<PathBuf>,
}

impl Lab {
    /// `None`, with a word on why, when the host cannot do it and need not.
    pub fn new() -> Option<Lab> {
        match Lab::try_new() {
            Ok(lab) => Some(lab),
            Err(why) if std::env::var_os("SNAPBACK_TEST_REQUIRE").is_some_and(|value| value == "1") => {
                panic!("a facility is missing: {why}")
            }
            Err(why) => {
                skip(&why);
                None
            }
        }
    }

    fn try_new() -> Result<Lab, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("root is needed".to_owned());
        }
        let dir = tempfile::Builder::new()
            .prefix("snapback-volume")
            .tempdir()
            .map_err(|error| error.to_string())?;
        let image = dir.path().join("image");
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(1 << 30).map_err(|error| error.to_string())?;
        try_run("mkfs.btrfs", &["-q", &image.display().to_string()])?;
        let device = try_run("losetup", &["--find", "--show", &image.display().to_string()])?;
        let uuid = try_run(
            "blkid",
            &["-p", "-s", "UUID", "-o", "value", &image.display().to_string()],
        );
        let mut lab = Lab {
            dir,
            device,
            uuid: String::new(),
            mounts: Vec::new(),
        };
        lab.uuid = uuid?;
        lab.try_mount("top", &[])?;
        Ok(lab)
    }

    fn try_mount(&mut self, name: &str, options: &[&str]) -> Result<PathBuf, String> {
        let at = self.dir.path().join(name);
        std::fs::create_dir_all(&at).map_err(|error| error.to_string())?;
        let at_text = at.display().to_string();
        try_run("mount", &[options, &[self.device.as_str(), at_text.as_str()]].concat())?;
        self.mounts.push(at.clone());
        Ok(at)
    }

    /// A path on the mounted top level; the empty name is the top itself.
    pub fn path(&self, name: &str) -> PathBuf {
        let top = self.dir.path().join("top");
        if name.is_empty() { top } else { top.join(name) }
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn filesystem(&self) -> &str {
        &self.uuid
    }

    pub fn subvolume(&self, name: &str) {
        self.btrfs(&["subvolume", "create", &self.text(name)]);
    }

    pub fn directory(&self, name: &str) {
        std::fs::create_dir_all(self.path(name)).unwrap();
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn mode(&self, name: &str) -> u32 {
        std::fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o7777
    }

    pub fn subvolume_id(&self, name: &str) -> String {
        self.subvolume_id_below(&self.path(name))
    }

    /// The number of the subvolume that holds a directory, as btrfs-progs says.
    pub fn subvolume_id_below(&self, directory: &Path) -> String {
        self.btrfs(&["inspect-internal", "rootid", &directory.display().to_string()])
    }

    /// Shows a directory at another place; returns the place.
    pub fn bind(&mut self, name: &str) -> PathBuf {
        let at = self.dir.path().join("bound");
        std::fs::create_dir_all(&at).unwrap();
        self.run("mount", &["--bind", &self.text(name), &at.display().to_string()]);
        self.mounts.push(at.clone());
        at
    }

    /// Shows a directory over another one.
    pub fn bind_at(&mut self, name: &str, over: &str) {
        self.run("mount", &["--bind", &self.text(name), &self.text(over)]);
        self.mounts.push(self.path(over));
    }

    /// Mounts something else over a directory.
    pub fn hide(&mut self, name: &str) {
        self.run("mount", &["-t", "tmpfs", "none", &self.text(name)]);
        self.mounts.push(self.path(name));
    }

    /// Mounts a subvolume by itself, at a directory that is not on Btrfs.
    pub fn mount_subvolume(&mut self, name: &str, at: &str) -> PathBuf {
        let at = format!("by-itself{at}");
        self.try_mount(&at, &["-o", &format!("subvol={name}")]).unwrap()
    }

    pub fn unmount(&mut self) {
        for at in self.mounts.drain(..).rev() {
            try_run("umount", &[&at.display().to_string()]).unwrap();
        }
    }

    pub fn mount_elsewhere(&mut self) {
        self.try_mount("elsewhere", &[]).unwrap();
    }

    pub fn sync(&self) {
        self.btrfs(&["filesystem", "sync", &self.text("")]);
    }

    /// What a look at the disk shows now, as if the machine had lost its power: the device is copied as it is, the copy gets
    /// another UUID, is mounted and looked at.
    pub fn after_power_cut(&self, look: impl Fn(&Path) -> bool) -> bool {
        let copy = self.dir.path().join("copy");
        let copy_text = copy.display().to_string();
        // The image below the loop device holds what was written to the device and flushed.
        let image = self.dir.path().join("image").display().to_string();
        self.run("cp", &["--sparse=always", &image, &copy_text]);
        self.run("btrfstune", &["-f", "-u", &copy_text]);
        let at = self.dir.path().join("cut");
        std::fs::create_dir_all(&at).unwrap();
        let at_text = at.display().to_string();
        self.run("mount", &["-o", "loop,ro", &copy_text, &at_text]);
        let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(&at)));
        self.run("umount", &["-d", &at_text]);
        answer.unwrap()
    }

    pub fn btrfs(&self, arguments: &[&str]) -> String {
        self.run("btrfs", arguments)
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        try_run(program, arguments).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for at in self.mounts.iter().rev() {
            if try_run("umount", &[&at.display().to_string()]).is_err() {
                let _ = try_run("umount", &["-l", &at.display().to_string()]);
            }
        }
        let _ = try_run("losetup", &["-d", &self.device]);
    }
}

#[allow(clippy::print_stderr)]
fn skip(why: &str) {
    eprintln!("SKIP: {why}");
}

fn try_run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| format!("{program} cannot be started: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program} {} failed: {}", arguments.join(" "), said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
