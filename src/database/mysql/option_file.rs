//! Option files in `my.cnf` syntax.
//!
//! The rules are those of the servers' own reader (mysys/my_default.c) and are tested against `my_print_defaults`:
//! <https://mariadb.com/kb/en/configuring-mariadb-with-option-files/>,
//! <https://dev.mysql.com/doc/refman/8.4/en/option-files.html>.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::database::{Error, Result};
use crate::sys;

/// The servers' limit on nested `!include`.
const MAX_DEPTH: usize = 10;

/// One `key` or `key = value` line, in the order of the files.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The group it stands in, as written.
    pub group: String,
    /// The key with dashes for underscores and without `loose-`.
    pub key: String,
    /// The value; `None` for a bare key.
    pub value: Option<String>,
    /// Where it stands.
    pub file: PathBuf,
    /// Line number from 1.
    pub line: usize,
}

/// All entries of an option file and of the files that it includes. Has no `Debug`: values may be secrets.
#[derive(Clone, Default)]
pub struct OptionFile {
    entries: Vec<Entry>,
}

impl OptionFile {
    /// Reads a file and everything that it includes.
    ///
    /// # Errors
    /// [`Error::OptionFile`] with file and line when it cannot be read or parsed.
    pub fn read(path: &Path) -> Result<OptionFile> {
        let mut file = OptionFile::default();
        file.read_into(path, 0)?;
        Ok(file)
    }

    /// The entries of these groups in the order in which they are read; a later one wins over an earlier one.
    pub fn in_groups<'a>(&'a self, groups: &'a [&str]) -> impl Iterator<Item = &'a Entry> {
        self.entries
            .iter()
            .filter(move |entry| groups.contains(&entry.group.as_str()))
    }

    fn read_into(&mut self, path: &Path, depth: usize) -> Result<()> {
        let unreadable = |reason: String| wrong(path, 0, format!("cannot be read: {reason}"));
        // What `!include` names may be anything.
        let bytes = sys::fs::read_plain_linked(path, sys::fs::TEXT_LIMIT)
            .map_err(|error| unreadable(error.into_io().to_string()))?;
        let text = String::from_utf8(bytes).map_err(|error| unreadable(error.to_string()))?;
        let mut group = None;
        for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
            match parse_line(line).map_err(|reason| wrong(path, number, reason))? {
                Line::Nothing => {}
                Line::Group(name) => group = Some(name.to_owned()),
                Line::Include(target) => self.include(path, number, Path::new(target), depth)?,
                Line::IncludeDir(target) => self.include_dir(path, number, Path::new(target), depth)?,
                Line::Option { key, value } => self.entries.push(Entry {
                    group: group
                        .clone()
                        .ok_or_else(|| wrong(path, number, "an option stands before the first [group]".into()))?,
                    key: normalise(key),
                    value,
                    file: path.to_owned(),
                    line: number,
                }),
            }
        }
        Ok(())
    }

    fn include(&mut self, path: &Path, line: usize, target: &Path, depth: usize) -> Result<()> {
        check_include(path, line, target, depth)?;
        // The servers' reader passes over a missing file here, too.
        if target.exists() {
            self.read_into(target, depth + 1)
        } else {
            Ok(())
        }
    }

    fn include_dir(&mut self, path: &Path, line: usize, target: &Path, depth: usize) -> Result<()> {
        check_include(path, line, target, depth)?;
        let unreadable = |error| wrong(path, line, format!("!includedir {}: {error}", target.display()));
        let mut files = Vec::new();
        for entry in fs::read_dir(target).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            if file.extension().is_some_and(|extension| extension == "cnf") {
                files.push(file);
            }
        }
        files.sort();
        files.iter().try_for_each(|file| self.read_into(file, depth + 1))
    }
}

impl Entry {
    /// # Errors
    /// The file that holds this entry can be read or written by others than us and root, which a secret must not be (trap 38).
    pub fn check_private(&self) -> Result<()> {
        let meta = fs::metadata(&self.file).map_err(|error| sys::Error::path("stat", &self.file, error))?;
        match exposed(meta.permissions().mode() & 0o7777, meta.uid()) {
            None => Ok(()),
            Some(why) => {
                let reason = format!("holds a password, but {why} {}`", self.file.display());
                Err(wrong(&self.file, self.line, reason))
            }
        }
    }

    /// An error about this entry.
    pub fn wrong(&self, reason: String) -> Error {
        wrong(&self.file, self.line, reason)
    }
}

/// Why others can read or change a file with a secret, ending in the beginning of the remedy.
fn exposed(mode: u32, owner: u32) -> Option<String> {
    if mode & 0o077 != 0 {
        return Some(format!("its mode {mode:04o} lets others at it: `chmod 600"));
    }
    let us = rustix::process::geteuid().as_raw();
    (owner != 0 && owner != us).then(|| format!("it belongs to user {owner}, neither root nor us: `chown {us}"))
}

fn wrong(path: &Path, line: usize, reason: String) -> Error {
    Error::OptionFile {
        path: path.to_owned(),
        reason: if line == 0 {
            reason
        } else {
            format!("line {line}: {reason}")
        },
    }
}

fn check_include(path: &Path, line: usize, target: &Path, depth: usize) -> Result<()> {
    if depth + 1 >= MAX_DEPTH {
        return Err(wrong(path, line, format!("more than {MAX_DEPTH} levels of !include")));
    }
    if target.is_relative() {
        // The servers' reader takes it from the working directory, which says nothing in a timer's job.
        return Err(wrong(
            path,
            line,
            format!("!include needs an absolute path, not `{}`", target.display()),
        ));
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Nothing,
    Group(&'a str),
    Include(&'a str),
    IncludeDir(&'a str),
    Option { key: &'a str, value: Option<String> },
}

/// Parses each line by itself, for fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_lines(text: &str) {
    for line in text.lines() {
        if let Ok(Line::Option { key, .. }) = parse_line(line) {
            let normal = normalise(key);
            assert_eq!(normalise(&normal), normal);
        }
    }
}

fn parse_line(line: &str) -> std::result::Result<Line<'_>, String> {
    let text = line.trim();
    if text.is_empty() || text.starts_with(['#', ';']) {
        return Ok(Line::Nothing);
    }
    if let Some(directive) = text.strip_prefix('!') {
        let (name, target) = directive
            .trim_start()
            .split_once(char::is_whitespace)
            .ok_or("an !include without a path")?;
        return match name {
            "includedir" => Ok(Line::IncludeDir(target.trim())),
            "include" => Ok(Line::Include(target.trim())),
            _ => Err(format!("unknown directive `!{name}`")),
        };
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (name, _) = rest.split_once(']').ok_or("a [group] without its closing bracket")?;
        // Space before the name belongs to it, as with the servers' reader.
        return Ok(Line::Group(name.trim_end()));
    }
    let text = without_comment(text);
    match text.split_once('=') {
        None => Ok(Line::Option {
            key: text.trim_end(),
            value: None,
        }),
        Some((key, value)) => Ok(Line::Option {
            key: key.trim_end(),
            value: Some(unescape(unquote(value.trim()))),
        }),
    }
}

/// Cuts a `#` comment that does not stand inside quotes.
fn without_comment(text: &str) -> &str {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.char_indices() {
        if matches!(c, '\'' | '"') && !escaped {
            match quote {
                None => quote = Some(c),
                Some(open) if open == c => quote = None,
                Some(_) => {}
            }
        }
        if quote.is_none() && c == '#' {
            return &text[..at];
        }
        escaped = quote.is_some() && c == '\\' && !escaped;
    }
    text
}

fn unquote(value: &str) -> &str {
    ['\'', '"']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value)
}

fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('b') => out.push('\u{8}'),
            Some('s') => out.push(' '),
            Some(c @ ('"' | '\'' | '\\')) => out.push(c),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

fn normalise(key: &str) -> String {
    let key = key.replace('_', "-");
    key.strip_prefix("loose-").unwrap_or(&key).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn options(file: &OptionFile, groups: &[&str]) -> Vec<String> {
        file.in_groups(groups)
            .map(|entry| match &entry.value {
                Some(value) => format!("--{}={value}", entry.key),
                None => format!("--{}", entry.key),
            })
            .collect()
    }

    const HARD: &str = r##"
# a comment
; another
[client]
user = a user   # trailing
password='it''s'
password="a#b\sc\\d\"e"
socket=/run/x y.sock
  port =  33 06
bare-key
empty=
single="
quoted_mid=a"b#c"d#e
escapes=\t\x\n\
[ other ]
user=wrong
[client]
half = 'open
loose_ssl_ca = /ca
"##;

    #[test]
    fn a_hard_file_reads_as_the_servers_reader_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let included = write(dir.path(), "one.cnf", "[snapback]\nuser=included\n");
        fs::create_dir(dir.path().join("d")).unwrap();
        write(&dir.path().join("d"), "b.cnf", "[client]\nuser=b\n");
        write(&dir.path().join("d"), "a.cnf", "[client]\nuser=a\n");
        write(&dir.path().join("d"), "c.ini", "[client]\nuser=no\n");
        let text = format!(
            "{HARD}!include {}\n!includedir {}\n!include /nonexistent/x.cnf\nafter=1\n",
            included.display(),
            dir.path().join("d").display()
        );
        let path = write(dir.path(), "my.cnf", &text);
        let ours = options(&OptionFile::read(&path).unwrap(), &["client", "snapback"]);
        // What `my_print_defaults` of MariaDB 10.11 prints for this file; the privileged test asks the program itself.
        let theirs = [
            "--user=a user",
            "--password=it''s",
            "--password=a#b c\\d\"e",
            "--socket=/run/x y.sock",
            "--port=33 06",
            "--bare-key",
            "--empty=",
            "--single=\"",
            "--quoted-mid=a\"b#c\"d",
            "--escapes=\t\\x\n\\",
            "--half='open",
            "--ssl-ca=/ca",
            "--user=included",
            "--user=a",
            "--user=b",
            "--after=1",
        ];
        assert_eq!(ours, theirs);
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        let dir = tempfile::tempdir().unwrap();
        for (text, expected) in [
            ("user=a\n", "line 1: an option stands before"),
            ("[client\n", "line 1: a [group] without"),
            ("\n!include relative.cnf\n", "line 2: !include needs an absolute path"),
            ("!frob /x\n", "line 1: unknown directive `!frob`"),
            ("!includedir /nonexistent/dir\n", "line 1: !includedir /nonexistent/dir"),
        ] {
            let path = write(dir.path(), "bad.cnf", text);
            let error = OptionFile::read(&path).err().unwrap();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.to_string().contains("bad.cnf"), "{error}");
        }
    }

    #[test]
    fn a_file_that_includes_itself_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("loop.cnf");
        write(dir.path(), "loop.cnf", &format!("!include {}\n", path.display()));
        assert!(OptionFile::read(&path).err().unwrap().to_string().contains("levels"));
    }

    #[test]
    fn a_password_in_a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "my.cnf", "[client]\npassword=hush\n");
        let entry = OptionFile::read(&path).unwrap().entries.remove(0);
        entry.check_private().unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = entry.check_private().unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        assert!(!error.to_string().contains("hush"));
    }

    #[test]
    fn a_password_in_a_strangers_file_is_refused() {
        let us = rustix::process::geteuid().as_raw();
        assert_eq!(exposed(0o600, us), None);
        assert_eq!(exposed(0o400, 0), None);
        let why = exposed(0o600, us + 4242).unwrap();
        assert!(why.contains("belongs to user") && why.contains("chown"), "{why}");
    }
}
