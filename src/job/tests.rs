//! Who is who: what happens to hosts, servers, datadirs and records, and what a comparison says of it.

use super::*;

fn job(machine: &str, data: &str, path: &str, place: &str) -> Job {
    Job {
        machine: Some(machine.to_owned()),
        installation: Some(format!("installation on {machine}")),
        kind: Kind::Database,
        data: Some(data.to_owned()),
        paths: vec![path.into()],
        place: Some(place.to_owned()),
        ..Job::unknown("db1")
    }
}

fn old(host: &str, data: Option<&str>, volume: &str) -> Job {
    Job {
        kind: Kind::Database,
        data: data.map(str::to_owned),
        paths: vec!["/d".into()],
        old: Old {
            server: Some(("h".to_owned(), 1)),
            volumes: vec![volume.to_owned()],
        },
        ..Job::unknown(host)
    }
}

fn both(one: &Job, other: &Job) -> Likeness {
    assert_eq!(one.compare(other), other.compare(one), "{one:?} {other:?}");
    one.compare(other)
}

#[test]
fn what_lasts_is_the_same_job() {
    let base = job("m", "mysql:1", "/d", "p");
    assert_eq!(both(&base, &base.clone()), Likeness::Same);
    let renamed = Job {
        host: "db2".to_owned(),
        ..base.clone()
    };
    assert_eq!(both(&base, &renamed), Likeness::Same, "a host that was renamed");
    let restored = Job {
        place: Some("q".to_owned()),
        ..base.clone()
    };
    assert_eq!(both(&base, &restored), Likeness::Same, "a restore in place");
    let reinstalled = Job {
        installation: Some("new".to_owned()),
        ..base.clone()
    };
    assert_eq!(both(&base, &reinstalled), Likeness::Same, "a lost state directory");
}

#[test]
fn what_only_has_the_name_is_another_job() {
    let base = job("m", "mysql:1", "/d", "p");
    for (what, other) in [
        ("two machines of one name", job("n", "mysql:2", "/d", "p")),
        ("a replica that is a copy", job("n", "mysql:1", "/d", "p")),
        ("two instances", job("m", "mysql:2", "/e", "q")),
        ("a copy beside it", job("m", "mysql:1", "/e", "q")),
        ("a new server in the old place", job("m", "mysql:2", "/d", "p")),
        (
            "a name that a person gave",
            Job {
                host: "x".to_owned(),
                named: true,
                ..base.clone()
            },
        ),
        (
            "a copy of the machine's disk",
            Job {
                hardware: Some("b".to_owned()),
                ..base.clone()
            },
        ),
        (
            "a container with the same paths",
            Job {
                installation: Some("other".to_owned()),
                place: Some("q".to_owned()),
                ..base.clone()
            },
        ),
    ] {
        let base = Job {
            hardware: other.hardware.as_ref().map(|_| "a".to_owned()),
            ..base.clone()
        };
        assert_eq!(both(&base, &other), Likeness::Other, "{what}");
        assert_ne!(what, "", "{}", base.short());
    }
}

#[test]
fn old_records_are_told_by_what_they_have() {
    let uuid = Some("mysql:1");
    assert_eq!(both(&old("h", None, "v"), &old("h", None, "v")), Likeness::Same);
    assert_eq!(both(&old("h", None, "v"), &old("i", None, "v")), Likeness::Other);
    assert_eq!(
        both(&old("h", uuid, "v"), &old("h", Some("mysql:2"), "v")),
        Likeness::Other
    );
    assert_eq!(both(&old("h", None, "v"), &old("h", None, "w")), Likeness::CannotTell);
    let new = |volumes: &[&str], data: &str| Job {
        host: "h".to_owned(),
        old: Old {
            server: Some(("h".to_owned(), 1)),
            volumes: volumes.iter().map(|volume| (*volume).to_owned()).collect(),
        },
        ..job("m", data, "/d", "p")
    };
    assert_eq!(both(&old("h", None, "v"), &new(&["v"], "mariadb:1")), Likeness::Same);
    assert_eq!(
        both(&old("h", None, "v"), &new(&["w"], "mariadb:1")),
        Likeness::CannotTell
    );
    assert_eq!(both(&old("h", None, "v"), &new(&[], "mariadb:1")), Likeness::CannotTell);
    assert_eq!(both(&old("h", uuid, "v"), &new(&[], "mysql:1")), Likeness::Same);
    assert_eq!(both(&old("h", uuid, "v"), &new(&[], "mysql:2")), Likeness::Other);
    assert_eq!(both(&Job::unknown("h"), &new(&[], "mysql:2")), Likeness::CannotTell);
}

#[test]
fn a_job_is_an_addition_to_the_record_and_reads_back() {
    let base = job("m", "mysql:1", "/d", "p");
    let json = serde_json::to_value(&base).unwrap();
    assert_eq!(serde_json::from_value::<Job>(json).unwrap(), base);
    assert_eq!(base.short().len(), 8);
    assert_ne!(base.short(), job("m", "mysql:1", "/e", "p").short());
}
