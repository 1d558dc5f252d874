//! What the kernel says of who and where we are: this machine, and a file that is still the same one after a remount.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};

/// Where systemd and D-Bus keep the machine's id (machine-id(5)).
const MACHINE: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
/// The virtual or real board's own id, which a copy of the disk does not carry along; only root reads it.
const HARDWARE: &str = "/sys/class/dmi/id/product_uuid";
/// More is no id.
const LIMIT: u64 = 4096;

/// The machine's id (machine-id(5)): 32 hexadecimal digits. `None` where it has none yet.
pub fn machine() -> Option<String> {
    MACHINE
        .iter()
        .find_map(|path| text(Path::new(path)))
        .filter(|id| id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// The board's id as its firmware tells it (SMBIOS); `None` in most containers and for all but root.
pub fn hardware() -> Option<String> {
    // Firmware without one says all zeros or all ones.
    text(Path::new(HARDWARE)).filter(|id| id.bytes().any(|digit| !matches!(digit, b'0' | b'f' | b'F' | b'-')))
}

/// What tells a file or directory from every other one, and lasts over a remount, a reboot, a new device number: its inode and the instant of its making.
/// `None` where the filesystem does not keep that instant. A copy of a whole volume has the same.
pub fn birth(path: &Path) -> Option<String> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let found = rustix::fs::statx(CWD, path, AtFlags::empty(), wanted).ok()?;
    let has_birth = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    has_birth.then(|| {
        let at = found.stx_btime;
        format!("{}:{}.{:09}", found.stx_ino, at.tv_sec, at.tv_nsec)
    })
}

fn text(path: &Path) -> Option<String> {
    let bytes = super::fs::read_plain_linked(path, LIMIT).ok()?;
    let text = String::from_utf8(bytes).ok()?.trim().to_ascii_lowercase();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_birth_and_another_of_its_name_has_another() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("d");
        std::fs::create_dir(&at).unwrap();
        let Some(first) = birth(&at) else { return };
        std::fs::rename(&at, dir.path().join("aside")).unwrap();
        assert_eq!(birth(&dir.path().join("aside")), Some(first.clone()));
        std::fs::create_dir(&at).unwrap();
        assert_ne!(birth(&at), Some(first));
        assert_eq!(birth(&dir.path().join("missing")), None);
    }
}
