//! Options of the dump tool that a user may give. Those that would let it read other files, load libraries, write elsewhere or talk to another server are not among them.

/// Options that change what the SQL is like, or what of a table is in it: of `mariadb-dump` and `mysqldump`, each as it is and with `skip-` before it.
const ALLOWED: [&str; 43] = [
    "add-drop-database",
    "add-drop-table",
    "add-drop-trigger",
    "add-locks",
    "allow-keywords",
    "column-statistics",
    "comments",
    "compact",
    "compatible",
    "complete-insert",
    "create-options",
    "delayed-insert",
    "disable-keys",
    "dump-date",
    "dump-history",
    "events",
    "extended-insert",
    "flush-privileges",
    "hex-blob",
    "ignore-table-data",
    "insert-ignore",
    "max-allowed-packet",
    "net-buffer-length",
    "network-timeout",
    "no-autocommit",
    "no-create-db",
    "no-create-info",
    "no-data",
    "no-data-med",
    "no-set-names",
    "no-tablespaces",
    "opt",
    "order-by-primary",
    "order-by-size",
    "quick",
    "quote-names",
    "replace",
    "routines",
    "set-charset",
    "set-gtid-purged",
    "triggers",
    "tz-utc",
    "where",
];

/// An option for the tool as the user writes it: `--NAME` or `--NAME=VALUE`, the dashes may be missing.
///
/// # Errors
/// It is none of those that only change the SQL, in words for people.
pub fn dump_option(text: &str) -> std::result::Result<String, String> {
    let plain = text.strip_prefix("--").unwrap_or(text);
    let name = plain.split('=').next().unwrap_or_default().replace('_', "-");
    let bare = name.strip_prefix("skip-").unwrap_or(&name);
    match ALLOWED.contains(&name.as_str()) || ALLOWED.contains(&bare) {
        true => Ok(format!("--{plain}")),
        false => Err(format!(
            "`{text}` is no option of the dump tool that may be given: what names files, libraries, servers or accounts may not, and names are written in full"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_out_is_no_option() {
        for (text, wanted) in [
            ("--skip-comments", "--skip-comments"),
            ("complete-insert", "--complete-insert"),
            ("--where=a = 1", "--where=a = 1"),
            ("--net_buffer_length=4096", "--net_buffer_length=4096"),
        ] {
            assert_eq!(dump_option(text).as_deref(), Ok(wanted), "{text}");
        }
        for text in [
            "--defaults-file=/x",
            "--defaults-extra-file=/x",
            "--plugin-dir=/x",
            "--result-file=/x",
            "-r/x",
            "--tab=/x",
            "--log-error=/x",
            "--socket=/x",
            "--host=h",
            "--user=root",
            "--init-command=x",
            "--def",
            "--skip-",
            "--",
            "",
            "mysql",
        ] {
            assert!(dump_option(text).is_err(), "{text}");
        }
    }
}
