//! What engines keep outside of the datadir, by their own options. CONNECT's files are named in the table's definition, where only the `.frm` file tells them to an
//! account that may not read the tables.

use std::path::{Path, PathBuf};

use super::session::Session;
use crate::database::{Error, Result};
use crate::finding::Finding;
use crate::sys::{self, fs::read_plain};

/// The largest definition that is read; the server itself allows 16 MiB.
const LARGEST_DEFINITION: u64 = 16 << 20;

/// Libraries of engines whose rows no snapshot of this host's paths has: what is said, and whether it forbids a backup.
const ELSEWHERE: [(&str, &str, bool); 3] = [
    (
        "ha_columnstore",
        "tables of engine ColumnStore keep their rows in directories that the server does not name",
        true,
    ),
    (
        "ha_s3",
        "tables of engine S3 keep their rows in an object storage",
        false,
    ),
    (
        "ha_ndbcluster",
        "tables of engine NDB keep their rows in data nodes",
        true,
    ),
];

/// What was found.
#[derive(Debug, Default)]
pub struct Elsewhere {
    /// The definition that names a file, and the file.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// What is not in a backup.
    pub findings: Vec<Finding>,
}

/// Looks for it, where an engine is loaded that may have any.
///
/// # Errors
/// The datadir cannot be read.
pub fn elsewhere(session: &mut Session, datadir: &Path) -> Result<Elsewhere> {
    let libraries = super::facts::engine_libraries(session).map_or_else(String::new, |(_, libraries)| libraries);
    let mut found = Elsewhere {
        files: Vec::new(),
        findings: not_here(&libraries),
    };
    if libraries.contains("ha_connect") {
        connect_tables(datadir, &mut found)?;
    }
    Ok(found)
}

fn not_here(libraries: &str) -> Vec<Finding> {
    let loaded = ELSEWHERE.iter().filter(|(library, ..)| libraries.contains(library));
    let finding = |(library, what, forbids): &(&str, &str, bool)| {
        let message = format!("{library} is loaded: {what}, which no backup has");
        match forbids {
            true => Finding::blocker("engine-elsewhere", message)
                .remedy("back these tables up by the engine's own means, and this host without the library"),
            false => Finding::warning("engine-elsewhere", message).remedy("back the object storage up as well"),
        }
    };
    loaded.map(finding).collect()
}

fn connect_tables(datadir: &Path, found: &mut Elsewhere) -> Result<()> {
    for definition in definitions(datadir)? {
        // Dropped meanwhile, or nothing that a server made.
        let Ok(bytes) = read_plain(&definition, LARGEST_DEFINITION) else {
            continue;
        };
        let Some(named) = file_of(&bytes) else { continue };
        let directory = definition.parent().unwrap_or(datadir);
        let file = directory.join(&named);
        let outside = |path: &Path| !path.starts_with(datadir);
        match file.canonicalize() {
            Ok(target) if outside(&target) => found.files.push((definition, target)),
            Ok(_) => {}
            Err(_) if outside(&super::paths::resolve(&file)) => found.findings.push(unseen(&definition, &named)),
            Err(_) => {}
        }
    }
    Ok(())
}

fn unseen(definition: &Path, named: &Path) -> Finding {
    let message = format!(
        "the CONNECT table of {} has its rows in {}, which is no file here (a pattern, perhaps): it is not in the backup",
        definition.display(),
        named.display()
    );
    Finding::warning("connect-file", message).remedy("name the directory in `files:`")
}

/// The definitions of all schemas.
fn definitions(datadir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::Sys(sys::Error::path("read the directory", datadir, error));
    let schemas = std::fs::read_dir(datadir).map_err(failed)?.flatten();
    let entries = schemas.filter_map(|schema| std::fs::read_dir(schema.path()).ok());
    let paths = entries.flat_map(|entries| entries.flatten().map(|entry| entry.path()));
    let mut all: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "frm"))
        .collect();
    all.sort();
    Ok(all)
}

/// The file that a CONNECT table's definition names. Options stand as a length (1 byte), the name, the value's length (2 bytes; the highest bit says that it was
/// quoted), the value; the engine's name has 2 bytes of length before it (MariaDB: sql/create_options.cc, sql/unireg.cc).
fn file_of(definition: &[u8]) -> Option<PathBuf> {
    const ENGINE: &[u8] = b"\x07\0CONNECT";
    const OPTION: &[u8] = b"\x09FILE_NAME";
    definition.windows(ENGINE.len()).find(|window| *window == ENGINE)?;
    let at = definition
        .windows(OPTION.len())
        .position(|window| window.eq_ignore_ascii_case(OPTION))?;
    let (length, rest) = definition.get(at + OPTION.len()..)?.split_first_chunk::<2>()?;
    let value = rest.get(..usize::from(u16::from_le_bytes(*length) & 0x7fff))?;
    (!value.is_empty()).then(|| PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;

    /// As MariaDB 10.11 wrote it (without zeros and columns).
    fn definition(engine: &str, file: &str) -> Vec<u8> {
        let length = |text: &str| u16::try_from(text.len()).unwrap();
        let mut bytes = b"\xfe\x01\x0a\x2a\x00\x80\x3d\x0aTABLE_TYPE\x03\0CSV\x09FILE_NAME".to_vec();
        bytes.extend((length(file) | 0x8000).to_le_bytes());
        bytes.extend(file.as_bytes());
        bytes.extend(b"\x06HEADER\x01\x001\0\0\0\xb8\0\0");
        bytes.extend(length(engine).to_le_bytes());
        bytes.extend(engine.as_bytes());
        bytes
    }

    #[test]
    fn a_connect_table_names_its_file() {
        let file = |engine, name| file_of(&definition(engine, name));
        assert_eq!(file("CONNECT", "/srv/ü x.csv"), Some("/srv/ü x.csv".into()));
        assert_eq!(file("Aria", "/srv/x.csv"), None);
        // Cut anywhere, it names nothing or less, and nothing breaks.
        let whole = definition("CONNECT", "/srv/x.csv");
        for end in 0..whole.len() {
            assert_eq!(file_of(&whole[..end]), None, "{end}");
        }
    }

    #[test]
    fn files_outside_of_the_datadir_are_found() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        let datadir = top.join("data");
        std::fs::create_dir_all(datadir.join("shop")).unwrap();
        std::fs::write(top.join("rows.csv"), "").unwrap();
        std::fs::write(datadir.join("shop/in.csv"), "").unwrap();
        let away = top.join("rows.csv");
        for (table, file) in [
            ("a", away.to_str().unwrap()),
            ("b", "in.csv"),
            ("c", "../../*.csv"),
            ("d", "../../rows.csv"),
        ] {
            std::fs::write(datadir.join(format!("shop/{table}.frm")), definition("CONNECT", file)).unwrap();
        }
        let mut found = Elsewhere::default();
        connect_tables(&datadir, &mut found).unwrap();
        let name = |table: &str| datadir.join(format!("shop/{table}.frm"));
        assert_eq!(found.files, [(name("a"), away.clone()), (name("d"), away)]);
        assert_eq!(found.findings.len(), 1, "{:?}", found.findings);
        assert!(found.findings[0].message.contains("../../*.csv"));
    }

    #[test]
    fn engines_with_rows_elsewhere_are_named() {
        let severities = |libraries| not_here(libraries).iter().map(|one| one.severity).collect::<Vec<_>>();
        assert_eq!(
            severities("ha_columnstore.so;ha_s3.so"),
            [Severity::Blocker, Severity::Warning]
        );
        assert_eq!(severities("ha_spider.so;ha_federatedx.so;ha_rocksdb.so"), []);
    }
}
