//! Golden repositories of format 1 (tests/formats/v1): every later version must list, verify and restore them, to the bit.
//! `cargo test --test readers make -- --ignored` made them; they are never made anew, or they would prove nothing.

mod make;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use snapback::monitor::Silent;
use snapback::repository::Repository;
use snapback::repository::verify::Level;
use snapback::store::DirectoryStore;
use snapback::sys::signal::Cancel;

use crate::common::{missing, text};
use crate::python::reader;
use crate::scene::said;
use crate::tree;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/formats/v1")
        .join(name)
}

/// What the golden repository holds: for each backup its line of `list`, then a listing per root.
struct Expected {
    listed: Vec<String>,
    /// By backup and root.
    trees: BTreeMap<(String, String), BTreeMap<String, String>>,
}

fn expected() -> Expected {
    let text = std::fs::read_to_string(golden("expected.txt")).unwrap();
    let mut expected = Expected {
        listed: Vec::new(),
        trees: BTreeMap::new(),
    };
    let mut at = None;
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap();
        match word {
            "backup" => expected.listed.push(rest.to_owned()),
            "root" => {
                let (id, root) = rest.split_once(' ').unwrap();
                at = Some((id.to_owned(), root.to_owned()));
            }
            "entry" => {
                let (name, line) = rest.split_once('\t').unwrap();
                let tree = expected.trees.entry(at.clone().unwrap()).or_default();
                tree.insert(name.to_owned(), line.to_owned());
            }
            other => panic!("{other}"),
        }
    }
    expected
}

fn open(path: &Path) -> snapback::repository::Result<Repository> {
    Repository::open(Arc::new(DirectoryStore::open(path).unwrap()))
}

fn assert_trees(expected: &Expected, restored: impl Fn(&str) -> PathBuf) {
    for ((id, root), tree) in &expected.trees {
        let there = restored(id).join(root.trim_start_matches('/'));
        tree::assert_same(&tree::listing(&there), tree);
    }
}

#[test]
fn the_golden_repository_is_listed_verified_and_restored() {
    if !rustix::process::geteuid().is_root() {
        return missing("root");
    }
    let expected = expected();
    let repository = open(&golden("repository")).unwrap();
    let listed: Vec<String> = repository
        .list()
        .unwrap()
        .into_iter()
        .map(|one| make::line(&one.manifest.unwrap()))
        .collect();
    assert_eq!(listed, expected.listed);
    let found = repository
        .verify(None, Level::Data, 2, &Silent, &Cancel::new())
        .unwrap();
    assert!(found.damage.is_empty() && found.unreferenced == 0, "{found:?}");
    let entries: usize = expected.trees.values().map(BTreeMap::len).sum();
    assert_eq!((found.backups, found.entries), (3, entries as u64));

    let dir = tempfile::tempdir().unwrap();
    for line in &expected.listed {
        let id = line.split(' ').next().unwrap();
        let output = snapback()
            .args(["restore", id, "--target"])
            .arg(dir.path().join(id))
            .arg("--special")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }
    assert_trees(&expected, |id| dir.path().join(id));
}

/// The tool on the golden repository.
fn snapback() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snapback"));
    command
        .args(["--config", "/dev/null", "--repository"])
        .arg(golden("repository"));
    command
}

/// Zero chunks in sparse files, all chunk classes, several roots: by the other ways out as well.
#[test]
fn the_golden_repository_is_mounted_and_exported() {
    if !rustix::process::geteuid().is_root() {
        return missing("root");
    }
    let (expected, dir) = (expected(), tempfile::tempdir().unwrap());
    let Some(mut mounted) = crate::mount::Mounted::with(snapback(), dir.path().to_owned(), &[]) else {
        return;
    };
    let names: Vec<PathBuf> = ["alpha", "beta-2.example"]
        .iter()
        .flat_map(|host| std::fs::read_dir(mounted.at.join(host)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_trees(&expected, |id| {
        let named = |path: &&PathBuf| path.to_string_lossy().ends_with(&id[..8]);
        names.iter().find(named).unwrap().clone()
    });
    assert_eq!(mounted.end(rustix::process::Signal::TERM), Some(0));
    for line in &expected.listed {
        let id = line.split(' ').next().unwrap();
        let archive = snapback().args(["export", id, "--tar"]).output().unwrap();
        assert!(archive.status.success(), "{}", said(&archive));
        std::fs::write(dir.path().join("tar"), archive.stdout).unwrap();
        let output = crate::export::extract(&dir.path().join("tar"), &dir.path().join(id));
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_trees(&expected, |id| dir.path().join(id));
}

#[test]
fn the_independent_reader_reads_the_golden_repository() {
    if !rustix::process::geteuid().is_root() {
        return missing("root");
    }
    let (expected, dir) = (expected(), tempfile::tempdir().unwrap());
    let Some(verified) = reader(&golden("repository"), &["verify"]) else {
        return;
    };
    assert!(verified.status.success(), "{}", said(&verified));
    let listed = reader(&golden("repository"), &["list"]).unwrap();
    assert_eq!(
        String::from_utf8(listed.stdout)
            .unwrap()
            .lines()
            .map(str::trim_end)
            .collect::<Vec<_>>(),
        expected.listed
    );
    for line in &expected.listed {
        let id = line.split(' ').next().unwrap();
        let output = reader(&golden("repository"), &["restore", id, &text(&dir.path().join(id))]).unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_trees(&expected, |id| dir.path().join(id));
}

#[test]
fn newer_formats_and_unknown_features_are_refused_with_their_names() {
    for (name, word) in [("newer-format", "format 2"), ("unknown-feature", "`encryption`")] {
        let error = open(&golden(name)).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), snapback::error::Kind::Usage);
        let error = error.to_string();
        assert!(error.contains(word) && error.contains("newer snapback"), "{error}");
        let Some(output) = reader(&golden(name), &["list"]) else {
            return;
        };
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(word), "{}", said(&output));
    }
}

/// One backup that needs more than this program knows does not hide the others.
#[test]
fn a_manifest_with_an_unknown_feature_is_named_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("repository");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(golden("repository"))
        .arg(&copy)
        .status()
        .unwrap();
    assert!(copied.success());
    let manifest = crate::scene::files(&copy.join("manifests")).into_iter().max().unwrap();
    make::reseal_manifest(&copy, &manifest, |json| {
        json.replace("\"zstd\"", "\"zstd\", \"telepathy\"")
    });
    let listed = open(&copy).unwrap().list().unwrap();
    let errors: Vec<String> = listed
        .iter()
        .filter_map(|one| one.manifest.as_ref().err().map(ToString::to_string))
        .collect();
    assert_eq!((listed.len(), errors.len()), (3, 1));
    assert!(
        errors[0].contains("`telepathy`") && errors[0].contains("newer snapback"),
        "{errors:?}"
    );
}

/// Packs of which only later generations are there, each without half of the slots: what prune and repair leave, at its worst.
#[test]
fn the_independent_reader_reads_later_generations_of_packs() {
    if !rustix::process::geteuid().is_root() {
        return missing("root");
    }
    let (expected, dir) = (expected(), tempfile::tempdir().unwrap());
    let copy = dir.path().join("repository");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(golden("repository"))
        .arg(&copy)
        .status()
        .unwrap();
    assert!(copied.success());
    for pack in crate::scene::files(&copy.join("packs")) {
        for (generation, parity) in [(9, 0), (10, 1)] {
            let name = format!(
                "{}.{generation}-00112233445566aa",
                pack.file_name().unwrap().to_str().unwrap()
            );
            std::fs::write(
                pack.with_file_name(name),
                make::later_generation(&copy, &pack, generation, parity),
            )
            .unwrap();
        }
        std::fs::remove_file(&pack).unwrap();
    }
    let Some(verified) = reader(&copy, &["verify"]) else {
        return;
    };
    assert!(verified.status.success(), "{}", said(&verified));
    let (id, target) = (&expected.listed[1][..32], dir.path().join("out"));
    let output = reader(&copy, &["restore", id, &text(&target)]).unwrap();
    assert!(output.status.success(), "{}", said(&output));
    for ((_, root), tree) in expected.trees.iter().filter(|((of, _), _)| of == id) {
        tree::assert_same(&tree::listing(&target.join(root.trim_start_matches('/'))), tree);
    }
    // What is dropped everywhere is lost.
    for pack in crate::scene::files(&copy.join("packs")) {
        if pack.to_string_lossy().contains(".10-") {
            std::fs::remove_file(pack).unwrap();
        }
    }
    assert_eq!(reader(&copy, &["verify"]).unwrap().status.code(), Some(4));
}
