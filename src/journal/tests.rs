use super::*;

fn directory(name: &str) -> Made {
    Made::Directory {
        at: PathBuf::from(name),
    }
}

fn setting(variable: &str) -> Made {
    Made::Setting(Setting {
        server: "s".into(),
        identity: None,
        variable: variable.into(),
        old: "0".into(),
        new: "1".into(),
    })
}

fn snapshot(run: Id, identity: Option<&str>) -> Made {
    Made::Snapshot(Snapshot {
        run,
        volume: crate::volume::Volume {
            provider: crate::volume::ProviderKind::Fake,
            id: "v".into(),
            source: "v".into(),
            fs_type: "none".into(),
            top: "/v".into(),
            filesystem: "f".into(),
        },
        name: format!("/v/.snapback/snapback-{run}-0"),
        identity: identity.map(str::to_owned),
    })
}

fn journal() -> (tempfile::TempDir, Journal) {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::create(dir.path(), Id::random()).unwrap();
    (dir, journal)
}

#[test]
fn what_was_made_and_not_undone_is_left() {
    let (dir, journal) = journal();
    for variable in ["a", "b"] {
        journal.record(&setting(variable)).unwrap();
    }
    journal.undone(&setting("a")).unwrap();
    journal.done().unwrap();
    let past = list(dir.path()).unwrap();
    assert_eq!(past.runs[0].left, [setting("b")]);
    assert!(past.runs[0].alive, "the journal is locked while it is open");
    drop((journal, past));
    let past = list(dir.path()).unwrap();
    assert!(!past.runs[0].alive);
    assert!(
        list(dir.path()).unwrap().runs[0].alive,
        "two cannot clean up after one run"
    );
}

#[test]
fn a_journal_with_nothing_left_goes() {
    let (dir, journal) = journal();
    journal.record(&directory("/x")).unwrap();
    journal.record(&snapshot(journal.run(), None)).unwrap();
    journal.undone(&snapshot(journal.run(), Some("known later"))).unwrap();
    assert_eq!(journal.left(), [directory("/x")]);
    journal.done().unwrap();
    assert!(list(dir.path()).unwrap().runs.is_empty());
    assert!(matches!(journal.record(&setting("late")), Err(Error::Closed { .. })));
}

#[test]
fn a_torn_last_line_is_what_a_crash_leaves() {
    let (dir, journal) = journal();
    journal.record(&setting("a")).unwrap();
    let path = journal.path.clone();
    drop(journal);
    let whole = std::fs::read(&path).unwrap();
    let mut file = File::options().append(true).open(&path).unwrap();
    file.write_all(b"{\"event\":\"making\",\"thing\":{\"made\":\"dir\xff")
        .unwrap();
    assert_eq!(list(dir.path()).unwrap().runs[0].left, [setting("a")]);
    std::fs::write(&path, &whole[..10]).unwrap();
    assert_eq!(list(dir.path()).unwrap().runs[0].left, []);
}

#[test]
fn a_file_that_is_not_ours_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join(RUNS);
    std::fs::create_dir(&runs).unwrap();
    let named = || runs.join(format!("{}.{SUFFIX}", Id::random()));
    std::fs::write(runs.join("notes.txt"), "keep").unwrap();
    std::fs::write(named(), "{\"event\":\"making\"}\n").unwrap();
    std::fs::write(named(), "\n").unwrap();
    std::os::unix::fs::symlink("notes.txt", named()).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        named(),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let past = list(dir.path()).unwrap();
    assert!(past.runs.is_empty());
    assert_eq!(past.findings.len(), 5, "{:?}", past.findings);
    assert_eq!(std::fs::read_dir(&runs).unwrap().count(), 5);
}

#[test]
fn another_runs_snapshot_in_a_journal_is_not_believed() {
    let (dir, journal) = journal();
    journal.record(&snapshot(Id::random(), None)).unwrap();
    drop(journal);
    let past = list(dir.path()).unwrap();
    assert!(past.runs.is_empty());
    assert!(
        past.findings[0].message.contains("belongs to run"),
        "{:?}",
        past.findings
    );
}

#[test]
fn several_threads_may_write() {
    let (dir, journal) = journal();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let journal = &journal;
            scope.spawn(move || journal.record(&setting(&number.to_string())).unwrap());
        }
    });
    drop(journal);
    assert_eq!(list(dir.path()).unwrap().runs[0].left.len(), 8);
}
