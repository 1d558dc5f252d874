//! `forget`, `hold`, `prune`, `repair`, as a user sees them.

use std::sync::Arc;

use serde_json::Value;
use snapback::monitor::Silent;
use snapback::repository::Repository;
use snapback::repository::prune::Options;
use snapback::store::DirectoryStore;
use snapback::sys::signal::Cancel;

use super::Cli;

impl Cli {
    pub(super) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["--json"], args].concat())).unwrap()
    }

    /// A backup after a change; its id.
    pub(super) fn changed(&self, seed: u8) -> String {
        let noise: Vec<u8> = (0..200_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed)
            .collect();
        std::fs::write(self.path("www/noise"), noise).unwrap();
        self.back_up()["id"].as_str().unwrap().to_owned()
    }

    pub(super) fn ids(&self) -> Vec<String> {
        let list = self.json(&["list"]);
        let ids = list
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned());
        ids.collect()
    }

    fn files(&self, below: &str) -> Vec<std::path::PathBuf> {
        super::walk(&self.path("repository").join(below))
    }
}

#[test]
fn forget_says_why_and_a_dry_run_touches_nothing() {
    let cli = Cli::with_files();
    let ids: Vec<String> = (0..4).map(|seed| cli.changed(seed)).collect();
    let before = cli.files("");
    let table = cli.ok(&["forget", "--keep-last", "2", "--dry-run"]);
    for word in [
        "last 1 of 2",
        "last 2 of 2",
        "the newest good one",
        "no rule keeps it",
        "would forget 2 backups",
        "h1",
    ] {
        assert!(table.contains(word), "{word}: {table}");
    }
    assert_eq!(cli.files(""), before);
    let report = cli.json(&["forget", "--keep-last", "2"]);
    assert_eq!(report["forgotten"], serde_json::json!(ids[..2]));
    assert_eq!(report["groups"][0]["backups"][3]["reasons"][0], "the newest good one");
    assert_eq!(cli.ids(), ids[2..]);
}

#[test]
fn a_policy_that_keeps_nothing_is_refused() {
    let cli = Cli::with_files();
    cli.changed(1);
    for args in [
        &["forget"][..],
        &["forget", "--keep-tag", "a=b"],
        &["forget", "--keep-last", "0"],
        &["backup", "--forget"],
    ] {
        let said = cli.fails(args, 2);
        assert!(said.contains("retention:"), "{args:?}: {said}");
    }
    assert_eq!(cli.ids().len(), 1);
}

#[test]
fn a_held_backup_and_the_newest_good_one_stay_even_when_named() {
    let cli = Cli::with_files();
    let ids: Vec<String> = (0..3).map(|seed| cli.changed(seed)).collect();
    cli.ok(&["hold", &ids[0], "--reason", "before the migration"]);
    assert!(cli.ok(&["list"]).contains("held") && cli.ok(&["show", &ids[0]]).contains("before the migration"));
    assert!(cli.fails(&["forget", &ids[0]], 2).contains("before the migration"));
    let table = cli.ok(&["forget", "--keep-last", "1"]);
    assert!(table.contains("held: before the migration"), "{table}");
    assert_eq!(cli.ids(), [ids[0].clone(), ids[2].clone()]);
    cli.ok(&["hold", &ids[0], "--release"]);
    assert!(cli.fails(&["forget", &ids[0], &ids[2]], 2).contains("--even-last"));
    cli.ok(&["forget", &ids[0]]);
    assert_eq!(cli.ids(), ids[2..]);
    assert!(cli.files("holds").is_empty());
}

#[test]
fn the_last_backup_of_a_job_goes_only_when_that_is_said() {
    let cli = Cli::with_files();
    let id = cli.changed(1);
    let said = cli.fails(&["forget", &id], 2);
    assert!(said.contains("no good backup of h1: ") && said.contains(&format!("snapback forget {id} --even-last")));
    // A policy never takes it, whatever is said.
    cli.fails(&["forget", "--keep-last", "1", "--even-last"], 2);
    let dry = cli.ok(&["forget", &id, "--even-last", "--dry-run"]);
    assert!(dry.contains("would have no good backup any more"), "{dry}");
    assert_eq!(cli.ids(), std::slice::from_ref(&id));
    // A hold is another word, and stays one.
    cli.ok(&["hold", &id]);
    assert!(cli.fails(&["forget", &id, "--even-last"], 2).contains("held"));
    cli.ok(&["hold", &id, "--release"]);
    let report = cli.json(&["forget", &id, "--even-last"]);
    assert_eq!(report["without_backup"].as_array().unwrap().len(), 1, "{report}");
    assert!(cli.ids().is_empty());
    // Nothing of it is left behind a prune, and the next backup is a good one.
    cli.ok(&["prune"]);
    assert_eq!(cli.changed(2), cli.ids()[0]);
}

#[test]
fn jobs_of_one_host_do_not_eat_each_others_backups() {
    let cli = Cli::with_files();
    let first = cli.changed(1);
    std::fs::create_dir(cli.path("etc")).unwrap();
    for _ in 0..2 {
        cli.ok(&["backup", "--files", &cli.text("etc")]);
    }
    cli.ok(&["forget", "--keep-last", "1"]);
    let left = cli.ids();
    assert!(left.len() == 2 && left.contains(&first), "{left:?}");
    // Asked to, they compete; another host's are nobody's business.
    cli.ok(&["backup", "--host", "h2", "--files", &cli.text("etc")]);
    cli.ok(&["forget", "--keep-last", "1", "--group-by", "host"]);
    assert_eq!(cli.ids().len(), 2);
}

#[test]
fn a_backup_is_followed_by_the_configured_policy_where_that_is_asked_for() {
    let cli = Cli::with_files();
    let yaml = std::fs::read_to_string(cli.path("snapback.yaml")).unwrap();
    std::fs::write(
        cli.path("snapback.yaml"),
        format!("{yaml}retention: {{keep_last: 2}}\n"),
    )
    .unwrap();
    (0..3).for_each(|seed| drop(cli.changed(seed)));
    assert_eq!(cli.ids().len(), 3);
    let www = cli.text("www");
    let done = cli.json(&["backup", "--files", &www, "--forget"]);
    assert_eq!(done["forgotten"].as_array().unwrap().len(), 2);
    std::fs::write(
        cli.path("snapback.yaml"),
        format!("{yaml}retention: {{keep_last: 2, after_backup: true}}\n"),
    )
    .unwrap();
    assert!(cli.ok(&["backup", "--files", &www]).contains("forgot 1 backup"));
    assert_eq!(cli.ids().len(), 2);
    assert!(cli.files("running").is_empty(), "an announcement is left");
}

#[test]
fn prune_gives_back_the_room_and_tells_how_much() {
    let cli = Cli::with_files();
    let ids: Vec<String> = (0..2).map(|seed| cli.changed(seed)).collect();
    cli.ok(&["forget", &ids[0]]);
    let before = cli.files("");
    let planned = cli.json(&["prune", "--dry-run"]);
    assert_eq!(cli.files(""), before);
    let bytes = planned["unreferenced"]["bytes"].as_u64().unwrap() + planned["replaced"]["bytes"].as_u64().unwrap();
    assert!(bytes > 0, "{planned}");
    // A prune of the day before yesterday marked it.
    let store = Arc::new(DirectoryStore::open(&cli.path("repository")).unwrap());
    let earlier = Options {
        now: jiff::Timestamp::now() - jiff::SignedDuration::from_hours(48),
        ..Options::default()
    };
    Repository::open(store)
        .unwrap()
        .prune(&earlier, &Silent, &Cancel::new())
        .unwrap();
    assert!(!cli.files("doomed").is_empty());
    let said = cli.ok(&["prune"]);
    assert!(said.contains("deleted") && said.contains("1 backup needs"), "{said}");
    assert!(cli.files("doomed").is_empty());
    cli.ok(&["verify", "--all", "--level", "data"]);
    assert!(cli.fails(&["prune", "--grace", "1h"], 2).contains("2 h"));
}

#[test]
fn damage_is_repaired_as_far_as_it_can_be_and_known_from_then_on() {
    let cli = Cli::with_files();
    let first = cli.changed(1);
    let data = cli
        .files("packs")
        .into_iter()
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&data).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    assert!(cli.fails(&["repair", "--dry-run"], 4).contains("nothing was done"));
    let said = cli.fails(&["repair"], 4);
    assert!(said.contains("1 chunk is lost") && said.contains(&first[..8]), "{said}");
    let list = cli.json(&["list"]);
    assert_eq!(list[0]["damaged"], true);
    assert!(cli.ok(&["show", &first]).contains("damaged"));
    let refused = cli.fails(&["restore", &first, "--target", &cli.text("out")], 4);
    assert!(refused.contains("--keep-going"), "{refused}");
    let second = cli.back_up()["id"].as_str().unwrap().to_owned();
    cli.ok(&["restore", &second, "--target", &cli.text("out")]);
    // The newest good one is the second; the damaged one goes like any other.
    cli.ok(&["forget", "--keep-last", "1"]);
    assert_eq!(cli.ids(), [second]);
}

#[test]
fn a_manifest_that_cannot_be_read_stops_prune_and_is_given_up_by_name_only() {
    let cli = Cli::with_files();
    let ids: Vec<String> = (0..2).map(|seed| cli.changed(seed)).collect();
    let manifest = cli
        .files("manifests")
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with(&ids[0]))
        .unwrap();
    std::fs::write(&manifest, "rot").unwrap();
    let said = cli.fails(&["prune"], 4);
    assert!(said.contains(&ids[0]) && said.contains("forget --damaged"), "{said}");
    let said = cli.fails(&["forget", "--keep-last", "1"], 4);
    assert!(said.contains("is not forgotten"), "{said}");
    assert!(manifest.exists());
    cli.fails(&["forget", &ids[0]], 4);
    cli.ok(&["forget", "--damaged", &ids[0][..8]]);
    assert!(!manifest.exists());
    cli.ok(&["prune"]);
    assert_eq!(cli.ids(), ids[1..]);
}

#[test]
fn a_backup_whose_drill_failed_is_not_the_good_one_that_stays() {
    let cli = Cli::with_files();
    let ids: Vec<String> = (0..3).map(|seed| cli.changed(seed)).collect();
    let store = Arc::new(DirectoryStore::open(&cli.path("repository")).unwrap());
    let repository = Repository::open(store).unwrap();
    let failed = ids[2].parse().unwrap();
    let verdict = serde_json::json!({"result": "failed", "reasons": ["the server does not come up"]});
    let drill = repository.drill_of(snapback::units::Id::random(), failed, jiff::Timestamp::now(), verdict);
    repository.keep_drill(&drill).unwrap();
    let report = cli.json(&["forget", "--keep-last", "1", "--dry-run"]);
    // The newest stays by the rule, the one before it because it is the newest good one.
    assert_eq!(report["forgotten"], serde_json::json!([ids[0]]), "{report}");
    let table = cli.ok(&["forget", "--keep-last", "1", "--dry-run"]);
    assert!(table.contains("its last drill failed"), "{table}");
}

#[test]
fn a_backup_that_reads_rot_back_says_so_and_stores_it_anew() {
    let cli = Cli::with_files();
    std::fs::write(cli.path("www/table.ibd"), super::stored::noise(5, 1 << 20)).unwrap();
    std::fs::write(
        cli.path("snapback.yaml"),
        std::fs::read_to_string(cli.path("snapback.yaml")).unwrap() + "copy:\n  read_back: 1\n",
    )
    .unwrap();
    let first = cli.back_up();
    // The largest object is the data pack; its middle lies in the noise.
    let packs = walk(&cli.path("repository/packs"));
    let pack = packs.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(pack, bytes).unwrap();
    let www = cli.text("www");
    let said = cli.fails(&["backup", "--files", &www], 5);
    assert!(said.contains("read back"), "{said}");
    assert!(said.contains(pack.file_name().unwrap().to_str().unwrap()), "{said}");
    let listed: serde_json::Value = serde_json::from_str(&cli.ok(&["--json", "list"])).unwrap();
    let second = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["id"] != first["id"])
        .unwrap();
    cli.ok(&["restore", second["id"].as_str().unwrap(), "--target", &cli.text("out")]);
    cli.fails(
        &["restore", first["id"].as_str().unwrap(), "--target", &cli.text("old")],
        4,
    );
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(walk(&path)),
            false => found.push(path),
        }
    }
    found
}
