//! What a server's error log says about its recovery.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use serde::{Deserialize, Serialize};

use crate::sys;

/// The most lines that are kept.
const KEPT: usize = 12;

/// Words of the lines that are worth keeping: recovery's, of both flavours.
const WORDS: [&str; 18] = [
    "crash recovery",
    "Doing recovery",
    "End of log at LSN",
    "log sequence number",
    "To recover",
    "Applying a batch",
    "Last binlog file",
    "Last MySQL binlog",
    "Recovering after a crash",
    "prepared state",
    "Found ",
    "rolled back or cleaned up",
    "Rolled back",
    "Rollback of",
    "recovery done",
    "starting recovery",
    "[ERROR]",
    "[FATAL]",
];

/// The most that is read of a log, in bytes: the server's user may have made it as long as it likes.
const TAIL: u64 = 4 << 20;

/// The end of a log; what cannot be read has none.
pub(super) fn tail(log: sys::Result<File>) -> String {
    let read = || -> Option<Vec<u8>> {
        let mut log = log.ok()?;
        let length = log.metadata().ok()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
        let mut bytes = Vec::new();
        log.take(TAIL).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// How a server came up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Whether InnoDB had to recover: the copy was not of a server that was shut down.
    pub crash_recovery: bool,
    /// The log sequence number up to which InnoDB read its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<u64>,
    /// The last transaction's end in the binary log as InnoDB knows it, where it tells: file and offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub innodb_binlog: Option<(String, u64)>,
    /// The log's lines about it, without times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// Reads the log of one start.
pub(super) fn recovery(log: &str) -> Recovery {
    let mut recovery = Recovery::default();
    for line in log.lines().take_while(|line| !line.contains("ready for connections")) {
        recovery.crash_recovery |= line.contains("Starting crash recovery");
        for words in ["scanned up to log sequence number", "End of log at LSN="] {
            recovery.lsn = number_after(line, words).or(recovery.lsn);
        }
        if let Some((_, rest)) = line.split_once("Last binlog file '") {
            let name = rest.split('\'').next().unwrap_or_default();
            let file = name.rsplit('/').next().unwrap_or_default().to_owned();
            recovery.innodb_binlog = number_after(rest, "position").map(|at| (file, at));
        }
        if recovery.log.len() < KEPT && WORDS.iter().any(|word| line.contains(word)) {
            recovery.log.push(without_time(line));
        }
    }
    recovery
}

/// The last lines that tell why a server did not come up, or ended: its errors, else its last words.
pub(super) fn last_words(log: &str) -> String {
    const LINES: usize = 6;
    let grave = |line: &&str| {
        ["[ERROR]", "[FATAL]", "Assertion", "got signal"]
            .iter()
            .any(|word| line.contains(word))
    };
    let errors: Vec<&str> = log.lines().filter(grave).collect();
    // The first errors are the causes.
    let lines: Vec<&str> = match errors.is_empty() {
        false => errors.into_iter().take(LINES).collect(),
        true => {
            let all: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
            all[all.len().saturating_sub(LINES)..].to_vec()
        }
    };
    let lines: Vec<String> = lines
        .into_iter()
        .map(|line| without_time(line).chars().take(300).collect())
        .collect();
    if lines.is_empty() {
        "its log is empty".to_owned()
    } else {
        lines.join("; ")
    }
}

/// `2026-11-24 21:54:59 0 [Note] InnoDB: x` and `2026-11-24T21:55:03.277874Z 0 [Note] [MY-1] [InnoDB] x` from the bracket on.
pub(super) fn without_time(line: &str) -> String {
    match line.find('[') {
        Some(at) if at < 50 && line.starts_with(|c: char| c.is_ascii_digit()) => line[at..].to_owned(),
        _ => line.to_owned(),
    }
}

fn number_after(line: &str, words: &str) -> Option<u64> {
    let rest = line.split_once(words)?.1.trim_start();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_flavours_logs_are_read() {
        let mariadb = "2026-11-24 21:54:59 0 [Note] InnoDB: Starting crash recovery from checkpoint LSN=46980\n\
            2026-11-24 21:54:59 0 [Note] InnoDB: End of log at LSN=65813\n\
            2026-11-24 21:54:59 0 [Note] InnoDB: Last binlog file './binlog.000001', position 3264\n\
            2026-11-24 21:54:59 0 [Note] mariadbd: ready for connections.\n\
            2026-11-24 21:54:59 0 [Note] InnoDB: End of log at LSN=9\n";
        let found = recovery(mariadb);
        assert!(found.crash_recovery);
        assert_eq!(found.lsn, Some(65813));
        assert_eq!(found.innodb_binlog, Some(("binlog.000001".to_owned(), 3264)));
        assert_eq!(found.log[1], "[Note] InnoDB: End of log at LSN=65813");
        let mysql = "2026-11-24T21:55:03.885674Z 1 [Note] [MY-012552] [InnoDB] Starting crash recovery.\n\
            2026-11-24T21:55:04.010322Z 1 [Note] [MY-012550] [InnoDB] Doing recovery: scanned up to log sequence number 19586476\n";
        assert_eq!(recovery(mysql).lsn, Some(19_586_476));
        assert!(
            !recovery("2026-11-24 1:1:1 0 [Note] InnoDB: log sequence number 5; transaction id 1\n").crash_recovery
        );
    }

    #[test]
    fn of_a_log_the_end_is_read_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("log");
        let file = File::create(&at).unwrap();
        file.set_len(1 << 40).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"the end", 1 << 40).unwrap();
        let text = tail(sys::fs::open_plain(&at));
        assert_eq!(text.len() as u64, TAIL);
        assert!(text.ends_with("the end"));
        assert_eq!(tail(sys::fs::open_plain(dir.path())), "");
    }

    #[test]
    fn last_words_are_the_errors_or_the_end() {
        let log = "2026-11-24 21:54:59 0 [Note] a\n2026-11-24 21:54:59 0 [ERROR] InnoDB: bad page\n2026-11-24 21:54:59 0 [Note] b\n";
        assert_eq!(last_words(log), "[ERROR] InnoDB: bad page");
        assert_eq!(last_words("one\ntwo\n"), "one; two");
        assert_eq!(last_words(""), "its log is empty");
    }
}
