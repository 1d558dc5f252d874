//! Whether the process at the other end may be told a password.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::database::mysql::connect::Target;
use crate::sys::host;
use crate::sys::line::Line;

/// The users as whom packages run a server.
const SERVERS_USERS: [&str; 2] = ["mysql", "mariadb"];

/// The process belongs to root, to us, to a server's own user, or to whoever alone can make a socket in that directory.
///
/// # Errors
/// It does not, or nobody knows; in words.
pub fn prove(target: &Target, line: &Line) -> Result<(), String> {
    let user = line.peer_user()?;
    if is_trusted(user) {
        return Ok(());
    }
    let name = host::user_name(user);
    if SERVERS_USERS.contains(&name.as_str()) {
        return Ok(());
    }
    match target {
        Target::Socket(path) if alone_makes(user, path) => Ok(()),
        _ => Err(format!("it runs as {name}, and not as root or `mysql`")),
    }
}

fn is_trusted(user: u32) -> bool {
    user == 0 || user == host::user_id()
}

/// Whether nobody but root and this user could have made something of this name.
fn alone_makes(user: u32, path: &Path) -> bool {
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let Some(Ok(directory)) = path.parent().map(Path::canonicalize) else {
        return false;
    };
    let mut looked = directory.ancestors().map(std::fs::metadata);
    let own = matches!(looked.next(), Some(Ok(found)) if found.uid() == user && found.mode() & OTHERS_WRITE == 0);
    own && looked.all(|found| {
        found.is_ok_and(|found| {
            let closed = found.mode() & OTHERS_WRITE == 0 || found.mode() & STICKY != 0;
            (is_trusted(found.uid()) || found.uid() == user) && closed
        })
    })
}
