//! The Btrfs provider on a real Btrfs: needs root, loop devices and btrfs-progs. Without them the tests say SKIP, or fail when
//! `SNAPBACK_TEST_REQUIRE=1`.

#[path = "volume_btrfs/lab.rs"]
mod lab;
#[path = "volume_btrfs/writers.rs"]
mod writers;

use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::Lab;
use snapback::database::{PathRole, WrittenPath};
use snapback::detect::{Mounts, lay_out};
use snapback::finding::Severity;
use snapback::units::Id;
use snapback::volume::{Btrfs, Health, Located, Provider, Snapshot, Volume, providers};
use writers::{Writers, newest};

/// The lab, or the end of the test.
macro_rules! lab {
    () => {
        match Lab::new() {
            Some(lab) => lab,
            None => return,
        }
    };
}

fn locate(path: &Path) -> Located {
    try_locate(path).unwrap().expect("the path is on Btrfs")
}

fn try_locate(path: &Path) -> snapback::volume::Result<Option<Located>> {
    Btrfs::default().locate(path, &Mounts::read().unwrap())
}

/// Takes a snapshot of the volume of `path` by the provider's own steps.
fn take(provider: &Btrfs, path: &Path, keep_clear: &[PathBuf]) -> Snapshot {
    let volume = locate(path).volume;
    let planned = provider.plan(Id::random(), &[volume], keep_clear).unwrap();
    let mut prepared = provider.prepare(&planned, None).unwrap();
    let (begun, ended) = prepared.fix().unwrap();
    assert!(ended >= begun);
    prepared.finish().unwrap().remove(0)
}

#[test]
fn a_path_is_located_in_its_real_subvolume() {
    let lab = lab!();
    lab.subvolume("sub");
    lab.subvolume("sub/nested");
    for directory in ["plain/deep", "sub/plain", "sub/nested/deep"] {
        lab.directory(directory);
    }
    lab.write("sub/plain/file", "x");
    for (path, top, inside) in [
        ("plain/deep", "", "plain/deep"),
        ("", "", ""),
        ("sub", "sub", ""),
        ("sub/plain/file", "sub", "plain/file"),
        ("sub/nested", "sub/nested", ""),
        ("sub/nested/deep", "sub/nested", "deep"),
    ] {
        let located = locate(&lab.path(path));
        assert_eq!(located.volume.top, lab.path(top), "{path}");
        assert_eq!(located.inside, Path::new(inside), "{path}");
        assert_eq!(
            located.volume.id,
            format!("{}:{}", lab.filesystem(), lab.subvolume_id(top)),
            "{path}"
        );
    }
    assert_eq!(try_locate(Path::new("/proc")).unwrap(), None);
}

#[test]
fn a_bind_mount_is_located_through_the_mount_that_shows_the_top() {
    let mut lab = lab!();
    lab.subvolume("sub");
    lab.directory("sub/a/b");
    let bound = lab.bind("sub/a");
    let located = locate(&bound.join("b"));
    assert_eq!(
        (located.volume.top, located.inside.as_path()),
        (lab.path("sub"), Path::new("a/b"))
    );
    // A mount over the subvolume hides its top; the bind mount still shows a part of it.
    lab.hide("sub");
    let error = try_locate(&bound.join("b")).unwrap_err().to_string();
    assert!(
        error.contains(&format!("-o subvolid={}", lab.subvolume_id_below(&bound))),
        "{error}"
    );
}

#[test]
fn a_subvolume_mounted_by_itself_is_located_there() {
    let mut lab = lab!();
    lab.subvolume("sub");
    let mounted = lab.mount_subvolume("sub", "");
    lab.directory("sub/dir");
    let located = locate(&mounted.join("dir"));
    assert_eq!(
        (located.volume.top, located.inside.as_path()),
        (mounted, Path::new("dir"))
    );
    assert!(located.volume.source.ends_with("[/sub]"), "{}", located.volume.source);
}

#[test]
fn a_snapshot_is_fixed_read_only_and_private() {
    let lab = lab!();
    lab.subvolume("sub");
    lab.directory("sub/data");
    lab.write("sub/data/t", "before");
    let provider = Btrfs::default();
    let snapshot = take(&provider, &lab.path("sub/data"), &[lab.path("sub/data")]);
    lab.write("sub/data/t", "after");
    let top = provider.mount(&snapshot, Path::new("/nowhere")).unwrap();
    assert_eq!(top.parent().unwrap(), lab.path("sub/.snapback"));
    assert_eq!(std::fs::read_to_string(top.join("data/t")).unwrap(), "before");
    let error = std::fs::write(top.join("data/t"), "no").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(lab.mode("sub/.snapback"), 0o700);
    assert_eq!(
        std::fs::read_dir(top.join(".snapback")).unwrap().count(),
        0,
        "it does not contain itself"
    );
    assert_eq!(provider.health(&snapshot).unwrap(), Health::Good);
    assert_eq!(
        provider.places(std::slice::from_ref(&snapshot)),
        [lab.path("sub/.snapback")]
    );
    assert!(provider.remove(&snapshot).unwrap());
}

/// `fix` returns before the kernel's call does. Writers that go on at that moment must not get into the snapshot, and all that
/// they wrote before must be in it; in ordinary files and in those that are written in place.
#[test]
fn what_is_written_once_fix_has_returned_is_not_in_the_snapshot() {
    let lab = lab!();
    lab.subvolume("sub");
    lab.directory("sub/in-place");
    lab.run("chattr", &["+C", &lab.text("sub/in-place")]);
    let files = ["sub/one", "sub/two", "sub/in-place/one", "sub/in-place/two"].map(|name| lab.path(name));
    let provider = Btrfs::default();
    for round in 0..12u8 {
        let writers = Writers::start(&files);
        std::thread::sleep(Duration::from_millis(60));
        let volume = locate(&files[0]).volume;
        let planned = provider.plan(Id::random(), &[volume], &[]).unwrap();
        let mut prepared = provider.prepare(&planned, None).unwrap();
        let written = writers.held(|| {
            // What the call must write out first: it takes its time before the content is fixed.
            std::fs::write(lab.path("sub/ballast"), vec![round; 12 << 20]).unwrap();
            prepared.fix().unwrap();
        });
        std::thread::sleep(Duration::from_millis(10));
        let snapshot = prepared.finish().unwrap().remove(0);
        writers.stop();
        for (file, last) in files.iter().zip(written) {
            let inside = file.strip_prefix(lab.path("sub")).unwrap();
            let found = newest(&Path::new(&snapshot.name).join(inside));
            assert_eq!(found, last, "round {round}, {}", inside.display());
        }
        assert!(provider.remove(&snapshot).unwrap());
    }
}

#[test]
fn a_removal_survives_a_power_cut() {
    let lab = lab!();
    lab.subvolume("sub");
    let provider = Btrfs::default();
    let snapshot = take(&provider, &lab.path("sub"), &[]);
    lab.sync();
    let name = Path::new(&snapshot.name).strip_prefix(lab.path("")).unwrap().to_owned();
    assert!(
        lab.after_power_cut(|top| top.join(&name).exists()),
        "the sync made it durable"
    );
    assert!(provider.remove(&snapshot).unwrap());
    assert!(lab.after_power_cut(|top| !top.join(&name).exists() && top.join("sub").exists()));
    assert!(!provider.remove(&snapshot).unwrap(), "gone is not an error");
}

#[test]
fn what_is_not_ours_is_never_removed() {
    let lab = lab!();
    lab.subvolume("sub");
    lab.subvolume("other");
    let provider = Btrfs::default();
    let volume = locate(&lab.path("sub")).volume;
    let run = Id::random();
    let planned = provider.plan(run, &[volume], &[]).unwrap().remove(0);
    lab.directory("sub/.snapback");
    let refused = |planned: &Snapshot, why: &str| {
        let error = provider.remove(planned).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(Path::new(&planned.name).exists(), "{why}");
    };
    // A plain directory, a writable subvolume, a snapshot of something else: all with exactly our name.
    std::fs::create_dir(&planned.name).unwrap();
    refused(&planned, "no subvolume");
    std::fs::remove_dir(&planned.name).unwrap();
    lab.btrfs(&["subvolume", "snapshot", &lab.text("sub"), &planned.name]);
    refused(&planned, "writable");
    lab.btrfs(&["subvolume", "delete", &planned.name]);
    lab.btrfs(&["subvolume", "snapshot", "-r", &lab.text("other"), &planned.name]);
    refused(&planned, "UUID");
    // The right one under a name without our mark, or of another run.
    lab.btrfs(&["subvolume", "delete", &planned.name]);
    lab.btrfs(&[
        "subvolume",
        "snapshot",
        "-r",
        &lab.text("sub"),
        &lab.text("sub/.snapback/daily"),
    ]);
    refused(
        &Snapshot {
            name: lab.text("sub/.snapback/daily"),
            ..planned.clone()
        },
        "mark",
    );
    let taken = take(&provider, &lab.path("sub"), &[]);
    refused(
        &Snapshot {
            run: Id::random(),
            ..taken.clone()
        },
        "mark",
    );
    let impostor = Snapshot {
        identity: Some("11111111-1111-1111-1111-111111111111".into()),
        ..taken.clone()
    };
    refused(&impostor, "UUID");
    assert!(matches!(provider.health(&impostor).unwrap(), Health::Lost(_)));
    assert!(provider.remove(&taken).unwrap());
}

#[test]
fn leftovers_are_found_and_removed() {
    let mut lab = lab!();
    lab.subvolume("sub");
    lab.subvolume("sub/nested");
    let provider = Btrfs::default();
    let one = take(&provider, &lab.path("sub"), &[]);
    let two = take(&provider, &lab.path("sub/nested"), &[]);
    lab.btrfs(&[
        "subvolume",
        "snapshot",
        "-r",
        &lab.text("sub"),
        &lab.text("sub/.snapback/daily"),
    ]);
    // A second mount shows the same ones again.
    lab.mount_subvolume("sub", "again");
    let here = |snapshot: &Snapshot| snapshot.volume.filesystem == lab.filesystem();
    let mut found: Vec<Snapshot> = provider.list_own(&Mounts::read().unwrap()).unwrap();
    found.retain(here);
    let names: Vec<&str> = found.iter().map(|snapshot| snapshot.name.as_str()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    for snapshot in [&one, &two] {
        let same = found.iter().find(|found| found.identity == snapshot.identity).unwrap();
        assert_eq!((same.run, &same.volume.id), (snapshot.run, &snapshot.volume.id));
    }
    for snapshot in &found {
        assert!(provider.remove(snapshot).unwrap());
    }
    assert!(!provider.list_own(&Mounts::read().unwrap()).unwrap().iter().any(here));
}

#[test]
fn a_snapshot_is_removed_where_its_filesystem_is_mounted_now_or_not_at_all() {
    let mut lab = lab!();
    lab.subvolume("sub");
    let provider = Btrfs::default();
    let snapshot = take(&provider, &lab.path("sub"), &[]);
    lab.unmount();
    let error = provider.remove(&snapshot).unwrap_err().to_string();
    assert!(error.contains("not mounted"), "{error}");
    lab.mount_elsewhere();
    assert!(provider.remove(&snapshot).unwrap());
    assert!(!provider.remove(&snapshot).unwrap());
}

#[test]
fn nested_subvolumes_are_found_below_the_paths_only() {
    let lab = lab!();
    lab.subvolume("sub");
    lab.directory("sub/data/a b/c");
    lab.subvolume("sub/data/a b/c/nested one");
    lab.subvolume("sub/data/direct");
    lab.subvolume("sub/data/direct/deeper");
    lab.subvolume("sub/elsewhere");
    lab.btrfs(&[
        "subvolume",
        "snapshot",
        "-r",
        &lab.text("sub/elsewhere"),
        &lab.text("sub/data/kept"),
    ]);
    let volume = locate(&lab.path("sub/data")).volume;
    let survey = Btrfs::default().survey(&volume, &[lab.path("sub/data")]).unwrap();
    let tops: Vec<&PathBuf> = survey.nested.iter().map(|nested| &nested.top).collect();
    assert_eq!(
        tops,
        [&lab.path("sub/data/a b/c/nested one"), &lab.path("sub/data/direct")]
    );
    assert_eq!(
        survey.nested[1],
        Volume {
            source: survey.nested[1].source.clone(),
            ..locate(tops[1]).volume
        }
    );
    assert!(
        survey.findings.iter().any(|finding| finding.code == "nested-snapshot"),
        "{:?}",
        survey.findings
    );
}

#[test]
fn nodatacow_and_quotas_are_noted_and_quotas_left_alone() {
    let lab = lab!();
    lab.subvolume("sub");
    lab.directory("sub/data");
    let volume = locate(&lab.path("sub/data")).volume;
    let codes = || {
        let survey = Btrfs::default().survey(&volume, &[lab.path("sub/data")]).unwrap();
        survey
            .findings
            .iter()
            .map(|finding| finding.code.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(codes(), [""; 0]);
    lab.run("chattr", &["+C", &lab.text("sub/data")]);
    assert_eq!(codes(), ["nodatacow"]);
    lab.btrfs(&["quota", "enable", &lab.text("")]);
    lab.btrfs(&["qgroup", "create", "1/0", &lab.text("")]);
    let own = format!("0/{}", lab.subvolume_id("sub"));
    lab.btrfs(&["qgroup", "assign", "--no-rescan", &own, "1/0", &lab.text("")]);
    assert_eq!(codes(), ["nodatacow", "quota-groups"]);
    let parents = || {
        lab.btrfs(&["qgroup", "show", "-p", "--raw", &lab.text("")])
            .lines()
            .filter(|line| line.contains("1/0"))
            .count()
    };
    let before = parents();
    let provider = Btrfs::default();
    let snapshot = take(&provider, &lab.path("sub"), &[]);
    assert_eq!(parents(), before, "the snapshot joined no group");
    assert!(provider.remove(&snapshot).unwrap());
}

#[test]
fn a_restored_tree_keeps_the_nodatacow_of_the_one_that_is_there() {
    let lab = lab!();
    lab.subvolume("sub");
    lab.directory("sub/there");
    lab.directory("sub/source");
    lab.run("chattr", &["+C", &lab.text("sub/there")]);
    let (from, to) = (lab.path("sub/there"), lab.path("sub/source"));
    let open = |path: &Path| std::fs::File::open(path).unwrap();
    let flag = |path: &Path| snapback::sys::btrfs::is_nodatacow(open(path)).unwrap();
    snapback::sys::btrfs::keep_nodatacow(open(&to), open(&to)).unwrap();
    assert!(!flag(&to));
    snapback::sys::btrfs::keep_nodatacow(open(&from), open(&to)).unwrap();
    std::fs::write(to.join("new"), "x").unwrap();
    assert!(flag(&to.join("new")));
}

#[test]
fn the_place_is_never_in_the_servers_directory() {
    let mut lab = lab!();
    lab.subvolume("sub");
    lab.subvolume("sub/mysql");
    let provider = Btrfs::default();
    let place = |path: &Path, keep_clear: &[PathBuf]| {
        let planned = provider.plan(Id::random(), &[locate(path).volume], keep_clear)?;
        Ok::<_, snapback::volume::Error>(provider.places(&planned).remove(0))
    };
    let datadir = lab.path("sub/mysql");
    let clear = std::slice::from_ref(&datadir);
    assert_eq!(
        place(&datadir, clear).unwrap(),
        lab.path("sub/.snapback"),
        "the subvolume above"
    );
    // Mounted by itself, with nothing of Btrfs above: another mount of the filesystem serves.
    let mounted = lab.mount_subvolume("sub/mysql", "");
    assert_eq!(
        place(&mounted, std::slice::from_ref(&mounted)).unwrap(),
        lab.path(".snapback")
    );
    // The same directory by another mount is the server's as well.
    assert_eq!(
        place(&mounted, &[lab.path("sub"), mounted.clone()]).unwrap(),
        lab.path(".snapback")
    );
    let error = place(&mounted, &[lab.path(""), mounted.clone()])
        .unwrap_err()
        .to_string();
    assert!(error.contains("btrfs.snapshot_dir"), "{error}");
    // A taken snapshot of such a datadir is good.
    let snapshot = take(&provider, &mounted, std::slice::from_ref(&mounted));
    assert_eq!(
        std::fs::read_dir(&mounted).unwrap().count(),
        0,
        "nothing appeared in the datadir"
    );
    assert!(provider.remove(&snapshot).unwrap());
}

#[test]
fn a_place_that_others_control_is_passed_over() {
    let lab = lab!();
    lab.subvolume("sub");
    lab.directory("sub/.snapback");
    lab.run("chown", &["1234", &lab.text("sub/.snapback")]);
    let provider = Btrfs::default();
    let plan = |provider: &Btrfs| {
        let planned = provider.plan(Id::random(), &[locate(&lab.path("sub")).volume], &[])?;
        Ok::<_, snapback::volume::Error>(provider.places(&planned).remove(0))
    };
    assert_eq!(plan(&provider).unwrap(), lab.path(".snapback"));
    let configured = |path: &str| plan(&Btrfs::new(Some(PathBuf::from(path)))).map_err(|error| error.to_string());
    assert_eq!(configured(&lab.text("here")).unwrap(), lab.path("here"));
    let error = configured("/proc").unwrap_err();
    assert!(
        error.contains("not on the same filesystem") && error.contains("/proc"),
        "{error}"
    );
    let error = configured(&lab.text("sub/.snapback")).unwrap_err();
    assert!(error.contains("belongs to user 1234"), "{error}");
}

#[test]
fn a_snapshot_that_another_run_reads_is_left_alone() {
    let lab = lab!();
    lab.subvolume("sub");
    let (reader, cleaner) = (Btrfs::new(None), Btrfs::new(None));
    let snapshot = take(&reader, &lab.path("sub"), &[]);
    reader.mount(&snapshot, Path::new("/nowhere")).unwrap();
    let error = cleaner.remove(&snapshot).unwrap_err().to_string();
    assert!(error.contains("another run"), "{error}");
    assert_eq!(reader.health(&snapshot).unwrap(), Health::Good);
    // A run that dies drops its lock; one that lives removes its own.
    drop(reader);
    assert!(cleaner.remove(&snapshot).unwrap());
    let snapshot = take(&cleaner, &lab.path("sub"), &[]);
    cleaner.mount(&snapshot, Path::new("/nowhere")).unwrap();
    assert!(cleaner.remove(&snapshot).unwrap());
}

#[test]
fn two_plans_of_one_run_do_not_collide() {
    let lab = lab!();
    lab.subvolume("one");
    lab.subvolume("two");
    let provider = Btrfs::new(Some(lab.path("place")));
    let run = Id::random();
    let mut taken = Vec::new();
    for name in ["one", "two"] {
        let planned = provider.plan(run, &[locate(&lab.path(name)).volume], &[]).unwrap();
        let mut prepared = provider.prepare(&planned, None).unwrap();
        prepared.fix().unwrap();
        taken.extend(prepared.finish().unwrap());
    }
    let volumes: Vec<Volume> = taken.iter().map(|snapshot| snapshot.volume.clone()).collect();
    assert!(!provider.one_instant(&volumes) && provider.one_instant(&volumes[..1]));
    for snapshot in &taken {
        assert!(provider.remove(snapshot).unwrap());
    }
}

#[test]
fn what_was_prepared_and_not_taken_leaves_nothing() {
    let lab = lab!();
    lab.subvolume("sub");
    let provider = Btrfs::default();
    let volume = locate(&lab.path("sub")).volume;
    let plan = || provider.plan(Id::random(), std::slice::from_ref(&volume), &[]).unwrap();
    let place = lab.path("sub/.snapback");
    let left = || std::fs::read_dir(&place).unwrap().count();

    provider.prepare(&plan(), None).unwrap().abandon().unwrap();
    assert_eq!(left(), 0);
    let mut prepared = provider.prepare(&plan(), None).unwrap();
    prepared.fix().unwrap();
    assert_eq!(left(), 1);
    prepared.abandon().unwrap();
    assert_eq!(left(), 0);
    // A name that is taken: the stranger stays.
    let planned = plan();
    std::fs::create_dir(&planned[0].name).unwrap();
    let mut prepared = provider.prepare(&planned, None).unwrap();
    let error = prepared.fix().unwrap_err().to_string();
    assert!(error.contains(&planned[0].name), "{error}");
    assert!(prepared.abandon().is_err());
    assert_eq!(left(), 1);
    // The origin was replaced since the plan.
    let planned = plan();
    lab.btrfs(&["subvolume", "delete", &lab.text("sub")]);
    lab.subvolume("sub");
    let Err(error) = provider.prepare(&planned, None) else {
        panic!("a stranger's subvolume was prepared")
    };
    assert!(error.to_string().contains("does not show it any more"), "{error}");
    assert!(!place.exists());
}

#[test]
fn a_lost_snapshot_is_noticed() {
    let lab = lab!();
    lab.subvolume("sub");
    let provider = Btrfs::default();
    let snapshot = take(&provider, &lab.path("sub"), &[]);
    assert_eq!(provider.health(&snapshot).unwrap(), Health::Good);
    lab.btrfs(&["property", "set", "-f", &snapshot.name, "ro", "false"]);
    assert!(
        matches!(provider.health(&snapshot).unwrap(), Health::Lost(_)),
        "writable"
    );
    lab.btrfs(&["property", "set", &snapshot.name, "ro", "true"]);
    lab.run("mount", &["-o", "remount,ro", &lab.text("")]);
    assert!(
        matches!(provider.health(&snapshot).unwrap(), Health::OutOfReach(_)),
        "filesystem read-only"
    );
    lab.run("mount", &["-o", "remount,rw", &lab.text("")]);
    lab.btrfs(&["subvolume", "delete", &snapshot.name]);
    assert!(matches!(provider.health(&snapshot).unwrap(), Health::Lost(_)), "gone");
}

#[test]
fn a_database_over_two_subvolumes_is_refused_and_web_files_are_not() {
    let mut lab = lab!();
    lab.subvolume("data");
    lab.subvolume("data/redo");
    lab.subvolume("data/www");
    lab.subvolume("data/www/uploads");
    lab.directory("data/mysql/db1");
    let written = |role, path: &str| WrittenPath {
        role,
        path: lab.path(path),
        needed: true,
        named: None,
    };
    let providers = providers(&snapback::config::Config::default());
    let lay_out = |paths: &[WrittenPath], files: &[PathBuf]| {
        lay_out(paths, files, &providers, &Mounts::read().unwrap(), &[]).unwrap()
    };
    let blockers = |layout: &snapback::detect::Layout| {
        let blockers = layout
            .findings
            .iter()
            .filter(|finding| finding.severity == Severity::Blocker);
        blockers.map(|finding| finding.code.clone()).collect::<Vec<_>>()
    };
    let datadir = written(PathRole::Datadir, "data/mysql");
    let layout = lay_out(&[datadir.clone(), written(PathRole::Redo, "data/redo")], &[]);
    assert_eq!(blockers(&layout), ["several-volumes"]);

    let layout = lay_out(std::slice::from_ref(&datadir), &[lab.path("data/www")]);
    assert_eq!(blockers(&layout), [""; 0]);
    let files: Vec<_> = layout
        .files
        .iter()
        .map(|file| (file.path.clone(), file.own, file.volume))
        .collect();
    assert_eq!(
        files,
        [
            (lab.path("data/www"), true, Some(1)),
            (lab.path("data/www/uploads"), true, Some(2))
        ]
    );
    assert_eq!(layout.files[0].skip, [lab.path("data/www/uploads")]);

    // A mount inside the datadir is as bad as a nested subvolume, unless it shows a directory of the same subvolume.
    lab.directory("data/elsewhere");
    lab.bind_at("data/elsewhere", "data/mysql/db1");
    let layout = lay_out(std::slice::from_ref(&datadir), &[]);
    assert_eq!(blockers(&layout), [""; 0]);
    let trees: Vec<_> = layout
        .database_trees()
        .iter()
        .map(|tree| tree.relative.clone())
        .collect();
    assert_eq!(trees, [Path::new("mysql"), Path::new("elsewhere")]);
    lab.subvolume("data/mysql/db2");
    assert_eq!(blockers(&lay_out(&[datadir], &[])), ["several-volumes"]);
}

#[test]
fn a_snapshot_that_is_out_of_sight_is_not_lost_and_is_found_by_another_mount() {
    let mut lab = lab!();
    lab.subvolume("db");
    lab.subvolume("other");
    lab.write("db/file", "x");
    let provider = Btrfs::default();
    let snapshot = take(&provider, &lab.path("db"), &[]);
    assert_eq!(provider.health(&snapshot).unwrap(), Health::Good);
    let planned = Snapshot {
        identity: Some("of:00000000-0000-0000-0000-000000000000".to_owned()),
        ..snapshot.clone()
    };
    let out_of_reach = |word: &str| {
        match provider.health(&snapshot).unwrap() {
            Health::OutOfReach(reason) => assert!(reason.contains(word), "{reason}"),
            other => panic!("{other:?}"),
        }
        let refused = provider.remove(&snapshot).unwrap_err().to_string();
        assert!(refused.contains(word), "{refused}");
        assert!(provider.space(&snapshot).is_err() && provider.mount(&snapshot, Path::new("/")).is_err());
        // As a journal has it whose run died before it knew the UUID.
        let refused = provider.remove(&planned).unwrap_err().to_string();
        assert!(refused.contains(word), "{refused}");
    };

    // The same subvolume by itself, at another place.
    lab.unmount();
    let elsewhere = lab.mount_subvolume("db", "/alt");
    assert_eq!(provider.health(&snapshot).unwrap(), Health::Good);
    let shown = provider.mount(&snapshot, Path::new("/")).unwrap();
    assert!(shown.starts_with(&elsewhere), "{}", shown.display());
    assert_eq!(std::fs::read_to_string(shown.join("file")).unwrap(), "x");
    provider.unmount(&snapshot, Path::new("/")).unwrap();
    provider.space(&snapshot).unwrap();

    // Another part of the filesystem; then nothing of it.
    lab.unmount();
    lab.mount_subvolume("other", "/other");
    out_of_reach("no mount shows it");
    lab.unmount();
    out_of_reach("is not mounted");

    lab.mount_subvolume("db", "/again");
    assert!(provider.remove(&snapshot).unwrap());
    assert!(matches!(provider.health(&snapshot).unwrap(), Health::Lost(_)));
    for gone in [&snapshot, &planned] {
        assert!(!provider.remove(gone).unwrap(), "the filesystem says that it is gone");
    }
}
