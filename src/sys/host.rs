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

/// Processors that this process may use, at least 1.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A process of one of these names (`/proc/PID/comm`) whose working directory is `directory` (canonical); needs root to see other users'.
pub fn process_in(directory: &std::path::Path, names: &[&str]) -> Option<i32> {
    let named = |number: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{number}/comm")).unwrap_or_default();
        names.contains(&name.trim())
    };
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(named)
        .find(|number| std::fs::read_link(format!("/proc/{number}/cwd")).is_ok_and(|at| at == directory))
}

#[cfg(test)]
mod tests {
    #[test]
    fn users_have_names_or_numbers() {
        assert_eq!(super::user_name(0), "root");
        assert_eq!(super::user_name(u32::MAX - 7), "4294967288");
    }
}
