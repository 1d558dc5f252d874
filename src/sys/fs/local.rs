//! Paths of this host against locations on another one, which have the form of a relative path and would quietly become a directory.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a text names that is no path of this host: `s3`, `sftp` ... of `s3://bucket/x`, or `host` of `user@host:path`; `None` for a path.
///
/// A colon before the first slash makes the difference, as it does for scp(1) and rsync(1): `./a:b` and `/srv/a:b` are paths.
pub fn remote(path: &Path) -> Option<String> {
    let bytes = path.as_os_str().as_bytes();
    let head = bytes.split(|byte| *byte == b'/').next()?;
    let colon = head.iter().position(|byte| *byte == b':')?;
    (colon > 0).then(|| String::from_utf8_lossy(&head[..colon]).into_owned())
}

/// Why a path is refused as one that names another host, with what to write instead.
///
/// # Errors
/// It names one.
pub fn require_local(path: &Path) -> Result<(), String> {
    match remote(path) {
        None => Ok(()),
        Some(kind) => Err(format!(
            "{} names a location (`{kind}:`), and only paths of directories and files on this host are known: /srv/backups, also below a mount (NFS, CIFS, sshfs). \
             A name that has a colon itself is written ./{}",
            path.display(),
            path.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_on_other_hosts_are_no_paths() {
        for (text, kind) in [
            ("s3://bucket/x", "s3"),
            ("s3:bucket", "s3"),
            ("sftp://h/x", "sftp"),
            ("sftp:u@h:/x", "sftp"),
            ("file:///srv/x", "file"),
            ("rclone:remote:x", "rclone"),
            ("ssh://u@h:22/x", "ssh"),
            ("u@h:x", "u@h"),
            ("nas:/backups", "nas"),
            ("[fe80::1]:x", "[fe80"),
            ("REST+https://h", "REST+https"),
        ] {
            assert_eq!(remote(Path::new(text)).as_deref(), Some(kind), "{text}");
            assert!(require_local(Path::new(text)).unwrap_err().contains("mount"));
        }
        for text in ["/srv/a:b", "./a:b", "a/b:c", "srv", "", ":x", "/s3:/x", "../s3:x"] {
            assert_eq!(remote(Path::new(text)), None, "{text}");
        }
    }
}
