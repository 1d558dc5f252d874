use super::*;
use crate::finding::Severity;
use crate::volume::fake::Fake;

/// A host with volumes at `data` and `data/nested` and `other`; everything else is unsupported.
struct Lab {
    dir: tempfile::TempDir,
    fake: Fake,
}

impl Lab {
    fn new(volumes: &[&str]) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "data/db",
            "data/nested/deep",
            "data/.trash",
            "data/tmp",
            "other/redo",
            "plain/www",
        ] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let root = dir.path().canonicalize().unwrap();
        let volumes: Vec<PathBuf> = volumes.iter().map(|name| root.join(name)).collect();
        let fake = Fake::new(&volumes, &root.join("snapshots"));
        Lab { dir, fake }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn written(&self, role: PathRole, name: &str, needed: bool) -> WrittenPath {
        WrittenPath {
            role,
            path: self.path(name),
            needed,
            named: None,
        }
    }

    fn lay_out(&self, paths: &[WrittenPath], files: &[&str]) -> Layout {
        let providers: Vec<Box<dyn Provider>> = vec![Box::new(self.fake.clone())];
        let files: Vec<PathBuf> = files.iter().map(|name| self.path(name)).collect();
        lay_out(paths, &files, &providers, &Mounts::default(), &[]).unwrap()
    }
}

fn blockers(layout: &Layout) -> Vec<&str> {
    let blockers = layout
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Blocker);
    blockers.map(|finding| finding.code.as_str()).collect()
}

#[test]
fn one_volume_holds_everything() {
    let lab = Lab::new(&["data"]);
    let paths = [
        lab.written(PathRole::Datadir, "data", true),
        lab.written(PathRole::Redo, "data/db", true),
        lab.written(PathRole::BinaryLog, "data/db", true),
    ];
    let layout = lab.lay_out(&paths, &[]);
    assert_eq!(blockers(&layout), [""; 0]);
    assert_eq!(layout.volumes.len(), 1);
    assert_eq!(layout.placed[1].relative, Path::new("db"));
    let trees = layout.database_trees();
    assert_eq!(trees.len(), 1);
    assert_eq!(trees[0].role, PathRole::Datadir);
}

#[test]
fn data_and_redo_on_two_volumes_are_refused_and_named() {
    let lab = Lab::new(&["data", "other"]);
    let paths = [
        lab.written(PathRole::Datadir, "data", true),
        lab.written(PathRole::Redo, "other/redo", true),
    ];
    let layout = lab.lay_out(&paths, &[]);
    assert_eq!(blockers(&layout), ["several-volumes"]);
    let finding = &layout.findings[0];
    for name in ["data", "other/redo"] {
        assert!(
            finding.message.contains(&lab.path(name).display().to_string()),
            "{}",
            finding.message
        );
    }
    assert!(
        finding.remedy.as_ref().unwrap().contains("other/redo"),
        "{:?}",
        finding.remedy
    );
}

#[test]
fn volumes_that_are_taken_at_one_instant_are_fine() {
    let lab = Lab::new(&["data", "other", "data/nested"]);
    let lab = Lab {
        fake: lab.fake.with_one_instant(),
        ..lab
    };
    let paths = [
        lab.written(PathRole::Datadir, "data", true),
        lab.written(PathRole::Redo, "other/redo", true),
    ];
    let layout = lab.lay_out(&paths, &[]);
    assert_eq!(blockers(&layout), [""; 0]);
    assert_eq!(
        layout.database_volumes().len(),
        3,
        "the nested one belongs to the footprint"
    );
    assert_eq!(layout.database_trees().len(), 3);
}

#[test]
fn a_volume_nested_in_the_datadir_is_refused() {
    let lab = Lab::new(&["data", "data/nested"]);
    let layout = lab.lay_out(&[lab.written(PathRole::Datadir, "data", true)], &[]);
    assert_eq!(blockers(&layout), ["several-volumes"]);
    let remedy = layout.findings[0].remedy.as_ref().unwrap();
    let nested = lab.path("data/nested").display().to_string();
    assert!(remedy.contains(&format!("mv {nested} {nested}.old")), "{remedy}");
}

#[test]
fn a_nested_volume_that_the_server_does_not_need_is_left_out() {
    let lab = Lab::new(&["data", "data/.trash", "data/tmp"]);
    let paths = [
        lab.written(PathRole::Datadir, "data", true),
        lab.written(PathRole::Temporary, "data/tmp", false),
    ];
    let layout = lab.lay_out(&paths, &[]);
    assert_eq!(blockers(&layout), [""; 0]);
    let notes = layout.findings.iter().filter(|finding| finding.code == "left-out");
    assert_eq!(notes.count(), 2);
}

/// MySQL's relay logs lie in the datadir unless told otherwise, and `innodb_directories` or `ssl_capath` may name it too.
#[test]
fn a_directory_that_is_not_only_temporary_hides_no_nested_volume() {
    let lab = Lab::new(&["data", "data/nested"]);
    for (role, name) in [
        (PathRole::RelayLog, "data"),
        (PathRole::InnodbDirectory, "data"),
        (PathRole::InnodbDirectory, "data/nested"),
        (PathRole::Secret, "data/nested"),
        (PathRole::Log, "data"),
        (PathRole::Temporary, "data"),
    ] {
        let paths = [
            lab.written(PathRole::Datadir, "data", true),
            lab.written(role, name, false),
        ];
        assert_eq!(
            blockers(&lab.lay_out(&paths, &[])),
            ["several-volumes"],
            "{role:?} {name}"
        );
    }
    let paths = [
        lab.written(PathRole::Datadir, "data", true),
        lab.written(PathRole::Temporary, "data/nested", false),
        lab.written(PathRole::External, "data/nested/deep", true),
    ];
    assert_eq!(
        blockers(&lab.lay_out(&paths, &[])),
        ["several-volumes"],
        "the server needs something in it"
    );
}

#[test]
fn unsupported_storage_is_refused_for_the_server_and_copied_live_for_files() {
    let lab = Lab::new(&["data"]);
    let layout = lab.lay_out(&[lab.written(PathRole::Datadir, "plain", true)], &[]);
    assert_eq!(blockers(&layout), ["unsupported-storage"]);
    let layout = lab.lay_out(&[lab.written(PathRole::Datadir, "data", true)], &["plain/www"]);
    assert_eq!(blockers(&layout), [""; 0]);
    assert_eq!(layout.files[0].volume, None);
    assert!(layout.findings.iter().any(|finding| finding.code == "copied-live"));
}

#[test]
fn a_needed_path_that_is_missing_is_refused_and_an_optional_one_is_said() {
    let lab = Lab::new(&["data"]);
    let layout = lab.lay_out(
        &[
            lab.written(PathRole::Datadir, "data", true),
            lab.written(PathRole::Undo, "data/gone", true),
            lab.written(PathRole::InnodbDirectory, "data/gone-too", true),
        ],
        &["data/gone"],
    );
    assert_eq!(blockers(&layout), ["missing-path"]);
    let warnings = layout
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Warning);
    assert_eq!(warnings.count(), 2);
}

#[test]
fn files_come_from_the_servers_snapshot_or_their_own() {
    let lab = Lab::new(&["data", "other"]);
    let paths = [lab.written(PathRole::Datadir, "data/db", true)];
    let layout = lab.lay_out(&paths, &["data/.trash", "other/redo"]);
    let own: Vec<bool> = layout.files.iter().map(|file| file.own).collect();
    assert_eq!(own, [false, true]);
    assert_eq!(layout.files[1].relative, Path::new("redo"));
    assert_eq!((layout.database_volumes(), layout.own_volumes()), (vec![0], vec![1]));
}

#[test]
fn files_around_the_datadir_skip_it_and_files_in_it_are_covered() {
    let lab = Lab::new(&["data"]);
    let paths = [lab.written(PathRole::Datadir, "data/db", true)];
    std::fs::create_dir(lab.path("data/db/www")).unwrap();
    let layout = lab.lay_out(&paths, &["data", "data/db/www", "data/nested"]);
    assert_eq!(layout.files.len(), 1);
    assert_eq!(layout.files[0].skip, [lab.path("data/db")]);
    assert_eq!(
        layout
            .findings
            .iter()
            .filter(|finding| finding.code == "covered")
            .count(),
        2
    );
}

#[test]
fn files_that_cost_nothing_are_taken_at_the_servers_instant() {
    let mut lab = Lab::new(&["data", "other"]);
    lab.fake = lab.fake.with_one_instant();
    let layout = lab.lay_out(&[lab.written(PathRole::Datadir, "data", true)], &["other"]);
    assert_eq!(layout.instant.volumes().count(), 2);
    assert_eq!(layout.own_volumes(), [0; 0]);
    assert!(!layout.files[0].own);
    // The server's own volumes are still its own.
    assert_eq!(layout.database_volumes(), [0]);
}

#[test]
fn a_volume_nested_in_files_is_a_tree_of_its_own() {
    let lab = Lab::new(&["data", "data/nested", "data/nested/deep"]);
    let layout = lab.lay_out(&[], &["data", "data/nested/deep"]);
    let trees: Vec<_> = layout
        .files
        .iter()
        .map(|file| (file.path.clone(), file.own, file.skip.clone()))
        .collect();
    let (nested, deep) = (lab.path("data/nested"), lab.path("data/nested/deep"));
    assert_eq!(trees[0], (lab.path("data"), true, vec![nested.clone()]));
    assert!(trees[1..].contains(&(nested, true, vec![deep.clone()])), "{trees:?}");
    assert!(trees[1..].contains(&(deep, true, vec![])), "{trees:?}");
    assert_eq!(trees.len(), 3);
}

#[test]
fn a_symlinked_root_keeps_its_name() {
    let lab = Lab::new(&["data"]);
    std::os::unix::fs::symlink(lab.path("data/db"), lab.path("link")).unwrap();
    let layout = lab.lay_out(&[], &["link"]);
    assert_eq!(layout.files[0].named, lab.path("link"));
    assert_eq!(layout.files[0].path, lab.path("data/db"));
}

#[test]
fn a_provider_that_fails_is_a_blocker_with_its_words() {
    let lab = Lab::new(&["data"]);
    lab.fake.fail("survey", "the disk is on fire");
    let layout = lab.lay_out(&[lab.written(PathRole::Datadir, "data", true)], &[]);
    assert_eq!(blockers(&layout), ["unreachable-storage"]);
    assert!(layout.findings[0].message.contains("on fire"));
}
