//! What a private server suffers from that is no fault of the data: the machine, or what is installed on it.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// Numbers of the kernel (errno(3)) that tell of the machine, and what they mean here. A missing file (2) is not among them: it may be the data's.
const NUMBERS: [(i32, &str); 9] = [
    (libc::EIO, "a disk of this machine does not read or write"),
    (libc::ENOMEM, "it had not enough memory"),
    (libc::EACCES, "this machine forbids it a file"),
    (libc::EPERM, "this machine forbids it a file"),
    (libc::ENFILE, "it ran out of file descriptors"),
    (libc::EMFILE, "it ran out of file descriptors"),
    (libc::ENOSPC, "its disk is full"),
    (libc::EROFS, "its disk is read-only"),
    (libc::EDQUOT, "its disk is full"),
];

/// How both servers and their engines introduce such a number.
const BEFORE_NUMBERS: [&str; 5] = ["errno: ", "errcode: ", "error number ", "os errno ", "(errno "];

/// Words of the servers' messages (errmsg-utf8.txt of both, InnoDB's log).
const WORDS: [(&str, &str); 17] = [
    ("too many open files", "it ran out of file descriptors"),
    ("cannot allocate memory", "it had not enough memory"),
    ("out of memory", "it had not enough memory"),
    ("no space left on device", "its disk is full"),
    ("disk is full", "its disk is full"),
    ("disk full", "its disk is full"),
    ("disk quota exceeded", "its disk is full"),
    // ER_PROVIDER_NOT_LOADED, ER_PLUGIN_IS_NOT_LOADED, ER_UNKNOWN_STORAGE_ENGINE.
    ("which is not currently loaded", "it lacks a library that the data need"),
    ("provider plugin", "it lacks a library that the data need"),
    ("is not loaded", "it lacks a library that the data need"),
    ("unknown storage engine", "it lacks a library that the data need"),
    ("can't open shared library", "it lacks a library that the data need"),
    ("unsupported redo log format", "it is of another version than the data"),
    ("server downgrade", "it is of another version than the data"),
    (
        "upgrade after a crash is not supported",
        "it is of another version than the data",
    ),
    ("unknown variable", "it does not know an option that it was given"),
    ("unknown option", "it does not know an option that it was given"),
];

/// What is wrong with the machine, by the words of a server; `None`: nothing that they tell.
pub fn trouble(said: &str) -> Option<&'static str> {
    let said = said.to_ascii_lowercase();
    let words = WORDS.iter().find(|(word, _)| said.contains(word));
    words.map(|(_, trouble)| *trouble).or_else(|| {
        let numbers = BEFORE_NUMBERS.iter().flat_map(|before| {
            let after = said.match_indices(before).map(|(at, _)| &said[at + before.len()..]);
            after.filter_map(|rest| {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                digits.parse::<i32>().ok()
            })
        });
        let mut known = numbers.filter_map(|number| NUMBERS.iter().find(|(one, _)| *one == number));
        known.next().map(|(_, trouble)| *trouble)
    })
}

/// The same of how a server ended, and its last words. A server kills itself by other signals than these.
pub(super) fn of_end(status: Option<ExitStatus>, words: &str) -> Option<&'static str> {
    match status.and_then(|status| status.signal()) {
        Some(libc::SIGKILL) => Some("it was killed, as the kernel does when memory is short"),
        Some(libc::SIGTERM | libc::SIGINT | libc::SIGHUP) => Some("somebody ended it"),
        Some(libc::SIGXFSZ | libc::SIGXCPU) => Some("it met a limit of this machine"),
        _ => trouble(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_lacks_is_told_from_what_the_data_lack() {
        for (said, wrong) in [
            ("Can't open file: './s/t.MYI' (errno: 24 \"Too many open files\")", true),
            ("Out of resources when opening file './s/t.MYD' (Errcode: 23)", true),
            ("InnoDB: Operating system error number 28 in a file operation.", true),
            (
                "Got error 28 \"No space left on device\" from storage engine Aria",
                true,
            ),
            (
                "Table `s`.`z` is compressed with lz4, which is not currently loaded.",
                true,
            ),
            ("Unknown storage engine 'ROCKSDB'", true),
            (
                "[ERROR] [MY-013171] [InnoDB] Cannot boot server version 80043 on data directory built by version 80044. Invalid MySQL server downgrade: x",
                true,
            ),
            // These are the data's.
            (
                "Can't find file: './s/m.MYI' (errno: 2 \"No such file or directory\")",
                false,
            ),
            ("Tablespace is missing for table 's/gone'", false),
            (
                "Got error 194 \"Tablespace is missing for a table\" from storage engine InnoDB",
                false,
            ),
            ("InnoDB: Operating system error number 2 in a file operation.", false),
            ("Index for table './s/t.MYI' is corrupt; try to repair it", false),
            ("Corrupt", false),
            ("errno: 280", false),
        ] {
            assert_eq!(trouble(said).is_some(), wrong, "{said}");
        }
    }

    #[test]
    fn a_server_that_was_killed_says_nothing_of_the_data_and_one_that_crashed_does() {
        let by = |signal| Some(ExitStatus::from_raw(signal));
        assert!(of_end(by(libc::SIGKILL), "").is_some());
        assert!(of_end(by(libc::SIGTERM), "").is_some());
        assert_eq!(of_end(by(libc::SIGABRT), "[ERROR] InnoDB: corrupt page"), None);
        assert_eq!(of_end(by(libc::SIGSEGV), "got signal 11"), None);
        assert!(of_end(by(libc::SIGABRT), "Cannot allocate memory for the buffer pool").is_some());
        assert_eq!(of_end(Some(ExitStatus::from_raw(1 << 8)), "[ERROR] Aborting"), None);
    }
}
