//! Whose `latest` is taken, refused, or taken with a warning.

use std::collections::BTreeMap;

use serde_json::json;

use super::super::{Kind, Member};
use super::*;
use crate::repository::{Digest, Root, SizeFigures};

/// A backup of a job, taken at a second, with a number.
fn backup(job: Option<&Job>, host: &str, second: i64, sequence: Option<u64>) -> Manifest {
    let digest = Digest([0; 32]);
    let mut record = json!({
        "tool": "0", "consistency": "application", "exact": true, "volumes": [], "phases": [],
        "roots": [{"path": "/d", "role": "files", "source": "live"}],
        "copy": {"files": 0, "bytes_total": 0, "bytes_read": 0, "bytes_new": 0, "bytes_stored": 0, "seconds": 0.0},
    });
    if let Some(job) = job {
        record["job"] = serde_json::to_value(job).unwrap();
        record["sequence"] = json!(sequence);
    }
    Manifest {
        format: 1,
        features: Vec::new(),
        id: Id::random(),
        repository: Id::random(),
        time: Timestamp::from_second(second).unwrap(),
        host: host.to_owned(),
        tags: BTreeMap::new(),
        parent: None,
        sizes: SizeFigures::default(),
        root: Root {
            pack: Id::random(),
            size: 0,
            digest,
            table_slot: 0,
            table_hash: digest,
            packs_slot: 0,
            packs_hash: digest,
        },
        record: crate::repository::StoredRecord::new(&record).unwrap(),
    }
}

fn job(machine: &str) -> Job {
    Job {
        machine: Some(machine.to_owned()),
        installation: Some(machine.to_owned()),
        kind: Kind::Files,
        paths: vec!["/d".into()],
        place: Some(machine.to_owned()),
        ..Job::unknown("localhost")
    }
}

fn whose(asking: Job) -> Whose {
    Whose {
        host: asking.host.clone(),
        named: false,
        wanted: None,
        asking,
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

/// The place of the chosen one in the list, and the codes of what is said.
fn chosen(all: &[Manifest], whose: &Whose) -> std::result::Result<(usize, Vec<String>), String> {
    let (group, mut findings) = meant(groups(all), whose, now()).map_err(|error| error.to_string())?;
    let (newest, said) = latest(&group, &HashMap::new(), Unfit::Refuse, now()).map_err(|error| error.to_string())?;
    findings.extend(said);
    let place = all.iter().position(|one| one.id == newest.id).unwrap();
    Ok((place, findings.into_iter().map(|finding| finding.code).collect()))
}

#[test]
fn two_machines_of_one_name_have_a_latest_each() {
    let (a, b) = (job("a"), job("b"));
    let all = [
        backup(Some(&a), "localhost", 10, Some(1)),
        backup(Some(&b), "localhost", 20, Some(1)),
    ];
    assert_eq!(chosen(&all, &whose(a.clone())), Ok((0, vec![])));
    assert_eq!(chosen(&all, &whose(b.clone())), Ok((1, vec![])));
    let third = chosen(&all, &whose(job("c"))).unwrap_err();
    for word in [
        a.short(),
        b.short(),
        "--job".to_owned(),
        "/d".to_owned(),
        "newest 1970-01-01".to_owned(),
    ] {
        assert!(third.contains(&word), "{word}: {third}");
    }
    let said = Whose {
        wanted: Some(b.short()[..5].to_owned()),
        ..whose(job("c"))
    };
    assert_eq!(chosen(&all, &said), Ok((1, vec![])));
    // One that knows itself is not given the only other's; one that knows nothing of itself is, with a word.
    assert!(chosen(&all[..1], &whose(b)).unwrap_err().contains(&a.short()));
    let nobody = Job {
        paths: Vec::new(),
        ..job("new")
    };
    assert_eq!(
        chosen(&all[..1], &whose(nobody.clone())),
        Ok((0, vec!["job-not-proved".to_owned()]))
    );
    assert!(chosen(&all, &whose(nobody)).is_err());
    let named = Whose {
        named: true,
        host: "nobody".to_owned(),
        ..whose(a)
    };
    assert!(chosen(&all, &named).unwrap_err().contains("no backup of host nobody"));
}

#[test]
fn an_old_repository_is_told_by_its_records_or_asks() {
    let old = [backup(None, "localhost", 10, None), backup(None, "db2", 20, None)];
    assert_eq!(
        chosen(&old, &whose(job("a"))),
        Ok((0, vec!["job-not-proved".to_owned()]))
    );
    let stranger = Job {
        host: "db3".to_owned(),
        ..job("a")
    };
    let refused = chosen(&old, &whose(stranger)).unwrap_err();
    assert!(refused.contains("db2, localhost"), "{refused}");
    // Its first backup with a job makes it clear.
    let a = job("a");
    let all = [old[0].clone(), backup(Some(&a), "localhost", 5, Some(1))];
    assert_eq!(chosen(&all, &whose(a)), Ok((1, vec![])));
}

#[test]
fn what_follows_what_decides_and_no_clock() {
    let a = job("a");
    let far = 1_000_000 + 86_400;
    let ahead = || vec!["time-ahead".to_owned()];
    let one = |second, sequence| backup(Some(&a), "localhost", second, Some(sequence));
    // The second one had a wrong clock; the third follows it.
    let all = [one(10, 1), one(far, 2), one(20, 3)];
    assert_eq!(chosen(&all, &whose(a.clone())), Ok((2, ahead())));
    // Taken last, with a clock that was put back.
    assert_eq!(chosen(&[one(500, 1), one(100, 2)], &whose(a.clone())), Ok((1, vec![])));
    // It is the newest, and its time is said to be wrong.
    assert_eq!(chosen(&all[..2], &whose(a.clone())), Ok((1, ahead())));
    // Old records have no number: what lies ahead is not taken while there is another.
    let old = |second| backup(None, "localhost", second, None);
    let unknown = whose(Job::unknown("localhost"));
    let (place, said) = chosen(&[old(10), old(far), old(20)], &unknown).unwrap();
    assert_eq!(place, 2);
    assert!(said.contains(&"time-ahead".to_owned()), "{said:?}");
    assert_eq!(chosen(&[old(far)], &unknown).unwrap().0, 0);
    assert_eq!(Member::of(&all[0]).sequence, 1);
}

#[test]
fn what_is_not_good_is_refused_with_the_newest_good_one() {
    let a = job("a");
    let all = [
        backup(Some(&a), "localhost", 10, Some(1)),
        backup(Some(&a), "localhost", 20, Some(2)),
    ];
    let bad = HashMap::from([(all[1].id, "its last drill failed".to_owned())]);
    let group = own(&all, &whose(a)).unwrap();
    let refused = latest(&group, &bad, Unfit::Refuse, now()).unwrap_err().to_string();
    for word in [
        "drill failed",
        &all[1].id.short(),
        &all[0].id.short(),
        "--accept-failed",
    ] {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    let (taken, said) = latest(&group, &bad, Unfit::Say, now()).unwrap();
    assert_eq!((taken.id, said[0].code.as_str()), (all[1].id, "not-good"));
    let all_bad = HashMap::from([(all[0].id, "damaged".to_owned()), (all[1].id, "damaged".to_owned())]);
    let refused = latest(&group, &all_bad, Unfit::Refuse, now()).unwrap_err().to_string();
    assert!(refused.contains("no good one"), "{refused}");
}
