use super::*;
use crate::database::Consistency;
use crate::held::{HeldVolume, ServerState};
use crate::record::{CopyFigures, Record};
use crate::volume::{ProviderKind, Snapshot, Volume};

fn record() -> Record {
    Record {
        tool: "t".into(),
        consistency: Consistency::Application,
        exact: true,
        job: None,
        sequence: None,
        server: None,
        paths: Vec::new(),
        lock: None,
        position: None,
        log_trace: None,
        replica: Vec::new(),
        prepared_xa: Vec::new(),
        recovery: None,
        checksums: None,
        volumes: Vec::new(),
        roots: Vec::new(),
        phases: Vec::new(),
        copy: CopyFigures::default(),
        left_out: Vec::new(),
        warnings: Vec::new(),
    }
}

fn held(second: i64, label: Option<&str>) -> Held {
    let id = Id::random();
    let volume = Volume {
        provider: ProviderKind::Fake,
        id: "v".into(),
        source: "v".into(),
        fs_type: "fake".into(),
        top: "/v".into(),
        filesystem: "f".into(),
    };
    let snapshot = Snapshot {
        run: id,
        volume,
        name: format!("/v/{id}"),
        identity: None,
    };
    Held {
        format: FORMAT,
        id,
        time: jiff::Timestamp::from_second(second).unwrap(),
        host: "h".into(),
        label: label.map(str::to_owned),
        expires: None,
        server: ServerState::Running,
        volumes: vec![HeldVolume {
            snapshot,
            with_database: true,
        }],
        placed: Vec::new(),
        trees: Vec::new(),
        places: Vec::new(),
        record: record(),
        deleting: false,
    }
}

#[test]
fn a_record_is_found_again_and_private() {
    let dir = tempfile::tempdir().unwrap();
    assert!(list(dir.path()).unwrap().sets.is_empty());
    let (old, new) = (held(1, Some("before the upgrade")), held(2, None));
    write(dir.path(), &new).unwrap();
    write(dir.path(), &old).unwrap();
    let kept = list(dir.path()).unwrap();
    assert_eq!(kept.sets, [old.clone(), new.clone()]);
    assert!(kept.findings.is_empty());
    let mode = std::fs::metadata(path_of(dir.path(), old.id)).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    for name in [
        old.id.to_string(),
        old.id.to_string()[..12].to_owned(),
        "before the upgrade".to_owned(),
    ] {
        assert_eq!(choose(dir.path(), &name).unwrap(), old, "{name}");
    }
    assert_eq!(choose(dir.path(), "latest").unwrap(), new);
    assert!(write(dir.path(), &old).is_err(), "a record was overwritten");
    assert!(remove(dir.path(), new.id).unwrap());
    assert!(!remove(dir.path(), new.id).unwrap());
    assert_eq!(choose(dir.path(), "latest").unwrap(), old);
    assert!(choose(dir.path(), "zz").is_err());
}

#[test]
fn latest_is_no_other_servers() {
    let dir = tempfile::tempdir().unwrap();
    let of = |second, datadir: &str| {
        let mut held = held(second, None);
        held.record.job = Some(Job {
            machine: Some("m".into()),
            installation: Some("i".into()),
            kind: Kind::Database,
            paths: vec![datadir.into()],
            ..Job::unknown("h")
        });
        held
    };
    let (first, second) = (of(1, "/a"), of(2, "/a"));
    write(dir.path(), &first).unwrap();
    write(dir.path(), &second).unwrap();
    assert_eq!(choose(dir.path(), "latest").unwrap(), second);
    write(dir.path(), &of(3, "/b")).unwrap();
    let said = choose(dir.path(), "latest").unwrap_err().to_string();
    assert!(said.contains("datadir /a") && said.contains("datadir /b"), "{said}");
    assert_eq!(choose(dir.path(), &first.id.to_string()).unwrap(), first);
}

#[test]
fn a_name_that_several_sets_have_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for second in 1..3 {
        write(dir.path(), &held(second, Some("twice"))).unwrap();
    }
    let said = choose(dir.path(), "twice").unwrap_err().to_string();
    assert!(said.contains("several"), "{said}");
}

/// Its snapshots must not pass for orphans.
#[test]
fn a_record_that_cannot_be_read_still_names_its_set() {
    let dir = tempfile::tempdir().unwrap();
    let one = held(1, None);
    write(dir.path(), &one).unwrap();
    let path = path_of(dir.path(), one.id);
    std::fs::write(&path, "{").unwrap();
    let kept = list(dir.path()).unwrap();
    assert_eq!((kept.sets.len(), kept.findings.len()), (0, 1));
    assert_eq!(kept.named, [one.id]);
    let other = held(2, None);
    std::fs::write(&path, bytes(&other).unwrap()).unwrap();
    assert!(
        list(dir.path()).unwrap().sets.is_empty(),
        "another set's record was taken for it"
    );
}

#[test]
fn a_set_in_use_is_not_had_alone() {
    let dir = tempfile::tempdir().unwrap();
    let one = held(1, None);
    write(dir.path(), &one).unwrap();
    let reader = take_for(dir.path(), one.id, false).unwrap();
    let _another = take_for(dir.path(), one.id, false).unwrap();
    let said = take_for(dir.path(), one.id, true).unwrap_err().to_string();
    assert!(said.contains("in use"), "{said}");
    drop((reader, _another));
    let alone = take_for(dir.path(), one.id, true).unwrap();
    assert!(take_for(dir.path(), one.id, false).is_err());
    // The record is exchanged while it is had alone, and is seen as it became.
    let doomed = Held {
        deleting: true,
        ..alone.held.clone()
    };
    replace(dir.path(), &doomed).unwrap();
    drop(alone);
    assert!(take_for(dir.path(), one.id, false).unwrap().held.deleting);
}
