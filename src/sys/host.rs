//! Facts about this host and this process.

/// The kernel's host name (`uname -n`).
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether the running kernel is this version or a later one.
pub fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

/// Whether this process runs as root (effective user id 0).
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The effective user id of this process.
pub fn user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The effective group id of this process.
pub fn group_id() -> u32 {
    rustix::process::getegid().as_raw()
}

/// A user's name as `/etc/passwd` has it, or else its number, which servers take as well.
pub fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    named.map_or_else(|| uid.to_string(), str::to_owned)
}

/// The words of a panic.
pub fn panic_words(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no words")
}

thread_local! {
    static PANICS_ARE_EXPECTED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Does something that panics at input which it does not like; `None`: it did. Nothing is said of it ([`panics_are_expected`]).
pub fn without_panic<T>(act: impl FnOnce() -> T) -> Option<T> {
    let before = PANICS_ARE_EXPECTED.replace(true);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
    PANICS_ARE_EXPECTED.set(before);
    done.ok()
}

/// Whether this thread is in [`without_panic`]: a panic is no fault of ours then.
pub fn panics_are_expected() -> bool {
    PANICS_ARE_EXPECTED.get()
}

/// A user and its group as `chown` takes them: the name and a colon where there is an account, else both numbers.
pub fn owner_name((uid, gid): (u32, u32)) -> String {
    match has_account(uid) {
        true => format!("{}:", user_name(uid)),
        false => format!("{uid}:{gid}"),
    }
}

/// Whether `/etc/passwd` has an account of this number.
pub fn has_account(uid: u32) -> bool {
    user_name(uid) != uid.to_string() || account(&uid.to_string()).is_some()
}

/// User and group by numbers alone, `UID` or `UID:GID`: no account is needed to run a program as them. The group of a number alone is the same one.
pub fn numbered(text: &str) -> Option<(u32, u32)> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| text.parse().ok().filter(|number| *number != u32::MAX);
    Some((number(uid)?, number(gid)?))
}

/// User and group of an account in `/etc/passwd`, by its name or number.
pub fn account(name: &str) -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    account_in(&users, name)
}

fn account_in(users: &str, name: &str) -> Option<(u32, u32)> {
    users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [named, _, uid, gid, ..] = fields[..] else {
            return None;
        };
        (named == name || uid == name).then_some((uid.parse().ok()?, gid.parse().ok()?))
    })
}

/// Processors that this process may use, at least 1.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Whether there is a process of this number.
pub fn is_process(number: i32) -> bool {
    std::path::Path::new(&format!("/proc/{number}")).exists()
}

/// Whom a process acts as (effective user and group, proc(5)).
pub fn account_of(process: i32) -> Option<(u32, u32)> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let effective = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some((effective("Uid:")?, effective("Gid:")?))
}

/// A process of one of these names (`/proc/PID/comm`) whose working directory is `directory`, by device and inode: a container's directory of the same name is
/// another one. Needs root to see other users'.
pub fn process_in(directory: &std::path::Path, names: &[&str]) -> Option<i32> {
    let named = |number: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{number}/comm")).unwrap_or_default();
        names.contains(&name.trim())
    };
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let identity = |path: &std::path::Path| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
    };
    let wanted = identity(directory)?;
    let at = |number: i32| std::path::PathBuf::from(format!("/proc/{number}/cwd"));
    numbers
        .filter(named)
        .find(|number| identity(&at(*number)) == Some(wanted))
}

/// Processes (number and name) that have a file or directory of this device (st_dev) open, or work in one; needs root to see other users'.
pub fn users_of(device: u64) -> Vec<(i32, String)> {
    use std::os::unix::fs::MetadataExt;
    let on_it = |path: &std::path::Path| std::fs::metadata(path).is_ok_and(|found| found.dev() == device);
    let uses = |process: &std::path::Path| {
        let opened = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        on_it(&process.join("cwd")) || on_it(&process.join("root")) || opened.into_iter().any(|one| on_it(&one.path()))
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = processes.filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse::<i32>().ok()?;
        let path = entry.path();
        let name = || {
            std::fs::read_to_string(path.join("comm"))
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        uses(&path).then(|| (number, name()))
    });
    found.collect()
}

/// The mount table (proc(5), `mountinfo`) of each mount namespace that a thread lives in, and one such thread; needs root to see other users'.
pub fn mount_tables() -> Vec<(i32, Vec<u8>)> {
    let listed = |directory: std::path::PathBuf| std::fs::read_dir(directory).into_iter().flatten().flatten();
    let threads = listed("/proc".into()).flat_map(|process| listed(process.path().join("task")));
    let (mut seen, mut tables) = (std::collections::BTreeSet::new(), Vec::new());
    for thread in threads {
        let (at, number) = (thread.path(), thread.file_name());
        let number = number.to_str().and_then(|name| name.parse().ok());
        let (Some(number), Ok(namespace)) = (number, std::fs::read_link(at.join("ns/mnt"))) else {
            continue;
        };
        if seen.contains(&namespace) {
            continue;
        }
        // Of a thread that ended in between it says nothing: another one of that namespace does.
        let table = std::fs::read(at.join("mountinfo")).unwrap_or_default();
        if !table.is_empty() {
            seen.insert(namespace);
            tables.push((number, table));
        }
    }
    tables
}

#[cfg(test)]
mod tests {
    #[test]
    fn whoever_has_a_file_open_is_seen() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let device = std::fs::metadata(dir.path()).unwrap().dev();
        let own = i32::try_from(std::process::id()).unwrap();
        let _open = std::fs::File::create(dir.path().join("f")).unwrap();
        let seen = super::users_of(device);
        assert!(
            seen.iter().any(|(number, name)| *number == own && !name.is_empty()),
            "{seen:?}"
        );
        assert!(super::users_of(u64::MAX).is_empty());
    }

    #[test]
    fn users_have_names_or_numbers() {
        assert_eq!(super::user_name(0), "root");
        assert_eq!(super::user_name(u32::MAX - 7), "4294967288");
        assert!(super::has_account(0) && !super::has_account(u32::MAX - 7));
        assert_eq!(super::owner_name((0, 0)), "root:");
        assert_eq!(super::owner_name((u32::MAX - 7, 5)), "4294967288:5");
    }

    #[test]
    fn numbers_alone_are_a_user_and_a_group() {
        assert_eq!(super::numbered("12345"), Some((12345, 12345)));
        assert_eq!(super::numbered("12345:7"), Some((12345, 7)));
        for wrong in ["mysql", "", "1:", ":1", "1:2:3", "-1", "4294967295", "1:4294967295"] {
            assert_eq!(super::numbered(wrong), None, "{wrong}");
        }
    }
}
