//! scripts/restore_reader.py shares no code with snapback and gives the same trees.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use snapback::monitor::Silent;
use snapback::repository::prune::Options;
use snapback::repository::{Draft, Entry, EntryKind, Metadata, Repository, WriterOptions};
use snapback::store::DirectoryStore;
use snapback::sys::signal::Cancel;
use snapback::units::Id;

use crate::common::missing;
use crate::scene::{Scene, said};
use crate::{stored, tree};

/// Runs the reader; `None` when it cannot run here.
pub fn reader(repository: &Path, args: &[&str]) -> Option<Output> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = Command::new(root.join("scripts/lab/reader-python")).output().unwrap();
    if !python.status.success() {
        missing("Python with zstandard and blake3 (scripts/lab/reader-python)");
        return None;
    }
    let python = String::from_utf8(python.stdout).unwrap();
    let mut command = Command::new(python.trim());
    command.arg(root.join("scripts/restore_reader.py")).arg(repository);
    Some(command.args(args).output().unwrap())
}

#[test]
fn the_independent_reader_restores_what_snapback_restores() {
    let Some(scene) = Scene::new() else { return };
    let repository = scene.path("repository");
    let ok = |args: &[&str]| {
        let output = reader(&repository, args)?;
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        Some(String::from_utf8(output.stdout).unwrap())
    };
    let Some(listed) = ok(&["list"]) else { return };
    let ids: Vec<&str> = listed.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(ids, scene.ids);
    assert_eq!(ok(&["verify"]).unwrap().lines().count(), 2);
    let files = ok(&["show", "latest", "--files"]).unwrap();
    for name in [
        "/first/new\\x0aline",
        "/first/not\\xff\\xfeutf8",
        "/second/inside/deep/er/log.000001",
    ] {
        assert!(files.contains(name), "{name}: {files}");
    }

    ok(&["restore", "latest", &scene.text("by-python")]);
    scene.ok(&["restore", "latest", "--target", &scene.text("by-snapback"), "--special"]);
    scene.assert_whole(&scene.path("by-snapback"));
    scene.assert_whole(&scene.path("by-python"));
    // The older backup lacks one file.
    ok(&["restore", &scene.ids[0][..8], &scene.text("older")]);
    let older = scene.path("older").join(scene.path("first").strip_prefix("/").unwrap());
    assert!(older.join("noise").exists() && !older.join("added").exists());
    // Nothing is overwritten.
    let again = reader(&repository, &["restore", "latest", &scene.text("older")]).unwrap();
    assert_eq!(again.status.code(), Some(2), "{}", said(&again));

    scene.damage();
    for args in [vec!["verify"], vec!["restore", "latest", &scene.text("damaged")]] {
        let output = reader(&repository, &args).unwrap();
        assert_eq!(output.status.code(), Some(4), "{args:?}: {}", said(&output));
        assert!(
            said(&output).contains("packs/") && said(&output).contains("damaged"),
            "{}",
            said(&output)
        );
    }
}

/// What a prune has copied into later generations, both readers find.
#[test]
fn a_pruned_repository_is_read_by_both() {
    let Some(mut scene) = Scene::new() else { return };
    let noise = tree::noise(78, 1 << 20);
    std::fs::write(scene.path("first/added"), &noise).unwrap();
    scene.back_up();
    std::fs::write(scene.path("first/added"), &noise[..300_000]).unwrap();
    scene.back_up();
    for id in &scene.ids[..3] {
        scene.ok(&["forget", id]);
    }
    let repository = Repository::open(Arc::new(DirectoryStore::open(&scene.path("repository")).unwrap())).unwrap();
    for hours in [0, 25] {
        let options = Options {
            max_unused: 0,
            now: jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours),
            ..Options::default()
        };
        repository.prune(&options, &Silent, &Cancel::new()).unwrap();
    }
    let packs = tree::listing(&scene.path("repository/packs"));
    assert!(format!("{packs:?}").contains(".1-"), "nothing was copied: {packs:?}");
    scene.ok(&["verify", "--all", "--level", "data"]);
    scene.ok(&["restore", "latest", "--target", &scene.text("by-snapback"), "--special"]);
    scene.assert_whole(&scene.path("by-snapback"));
    for args in [vec!["verify"], vec!["restore", "latest", &scene.text("by-python")]] {
        let Some(output) = reader(&scene.path("repository"), &args) else {
            return;
        };
        assert!(output.status.success(), "{args:?}: {}", said(&output));
    }
    scene.assert_whole(&scene.path("by-python"));
}

#[test]
fn the_independent_reader_writes_nothing_outside_its_target() {
    let entry = |path: &str, kind: EntryKind| Entry {
        root: 0,
        path: path.into(),
        kind,
        metadata: Metadata {
            mode: 0o755,
            ..Metadata::default()
        },
        live: false,
        torn: false,
    };
    for (path, link) in [("../escaped", false), ("door/escaped", true)] {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let store = DirectoryStore::create(&dir.path().join("repository")).unwrap();
        let repository: Repository = stored::create(store);
        let options = WriterOptions {
            id: Id::random(),
            parent: None,
            level: 1,
        };
        let writer = repository.begin(options).unwrap();
        let mut table = writer.table().unwrap();
        table.push(&entry("", EntryKind::Directory)).unwrap();
        if link {
            let target = outside.as_os_str().as_encoded_bytes().to_vec();
            table.push(&entry("door", EntryKind::Symlink(target))).unwrap();
        }
        table.push(&entry(path, EntryKind::Fifo)).unwrap();
        table.finish().unwrap();
        let draft = Draft {
            time: jiff::Timestamp::now(),
            host: "evil".into(),
            tags: Default::default(),
            record: stored::record(Path::new("/r")),
        };
        writer.commit(draft).unwrap();
        let target = dir.path().join("target").display().to_string();
        let Some(output) = reader(&dir.path().join("repository"), &["restore", "latest", &target]) else {
            return;
        };
        assert!(!output.status.success(), "{path}");
        assert_eq!(
            std::fs::read_dir(&outside).unwrap().count(),
            0,
            "{path}: {}",
            said(&output)
        );
        assert!(!dir.path().join("escaped").exists() && !dir.path().join("target/escaped").exists());
    }
}
