//! What is never copied, with the reason that the manifest lists. Everything else is copied: `#sql-*` tables and `ddl_recovery.log`
//! are needed to recover from a DDL statement, `auto.cnf` is dropped by a restore, not here (trap 31).

/// Names that snapback gives to what it makes itself (the snapshots' place, unfinished restores, datadirs moved aside).
const OWN: &str = "made by snapback";

/// Why a thing is left out whatever tree it is in.
pub fn anywhere(name: &[u8], is_socket: bool) -> Option<&'static str> {
    let own = name == b".snapback"
        || name.starts_with(b".snapback-")
        || name.windows(PARTIAL.len()).any(|window| window == PARTIAL.as_bytes());
    match () {
        () if is_socket => Some("a socket"),
        () if own => Some(OWN),
        () => None,
    }
}

/// Part of the name of a directory in which a restore is under way.
pub const PARTIAL: &str = ".snapback-partial-";

/// Why a thing of a server's datadir is left out. `path` is relative to the datadir.
pub fn in_datadir(path: &[u8]) -> Option<&'static str> {
    let mut names = path.split(|byte| *byte == b'/');
    let first = names.next().unwrap_or_default();
    let deeper = names.next().is_some();
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    match () {
        () if name.ends_with(b".pid") => Some("the running server's process id"),
        () if name.ends_with(b".sock.lock") => Some("the running server's socket lock"),
        () if first == b"#innodb_temp" && deeper => Some("temporary tablespace, made anew at every start"),
        () if !deeper && is_temporary_tablespace(first) => Some("temporary tablespace, made anew at every start"),
        // A statement's own temporary table where tmpdir is the datadir; `#sql-ib*`, `#sql-alter*` and the like belong to DDL.
        () if name.starts_with(b"#sql-temptable-") => Some("temporary table of a running statement"),
        () => None,
    }
}

/// `ibtmp1` and the like (`innodb_temp_data_file_path`).
fn is_temporary_tablespace(name: &[u8]) -> bool {
    name.strip_prefix(b"ibtmp")
        .is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_recovery_needs_is_copied() {
        for name in [
            "#sql-alter-1a2b-3.ibd",
            "#sql-ib1059-2812.ibd",
            "db/#sql-1234_5.frm",
            "ib_buffer_pool",
            "aria_log.00000001",
            "aria_log_control",
            "ddl_recovery.log",
            "ddl_recovery-backup.log",
            "auto.cnf",
            "mysql_upgrade_info",
            "db/t.frm",
            "db/t.par",
            "db/t.isl",
            "db/t.cfp",
            "db/ibtmp1",
            "#innodb_temp",
            "#innodb_redo/#ib_redo10_tmp",
            "#ib_16384_0.dblwr",
            "mysql-bin.000001",
            "undo_001",
        ] {
            assert_eq!(in_datadir(name.as_bytes()), None, "{name}");
            let last = name.rsplit('/').next().unwrap_or_default();
            assert_eq!(anywhere(last.as_bytes(), false), None, "{name}");
        }
    }

    #[test]
    fn what_only_a_running_server_needs_is_left_out() {
        for name in [
            "host.pid",
            "mysql.sock.lock",
            "ibtmp1",
            "ibtmp12",
            "#innodb_temp/temp_1.ibt",
            "#sql-temptable-21-3-1.MAI",
        ] {
            assert!(in_datadir(name.as_bytes()).is_some(), "{name}");
        }
        assert!(anywhere(b"mysql.sock", true).is_some());
        assert!(anywhere(b".snapback", false).is_some());
        assert!(anywhere(b"mysql.snapback-partial-00ff", false).is_some());
    }
}
