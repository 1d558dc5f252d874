//! Several installations on one machine: each removes its own snapshots, and never another's.

use serde_json::Value;

use crate::common::{Kind, Lab, Tool, text};

fn names(report: &Value, key: &str) -> Vec<String> {
    let names = report[key].as_array().unwrap();
    names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// An installation with a state directory of its own, for the files of one volume.
fn installation(lab: &Lab, name: &str) -> Tool {
    let www = lab.storage.volume(name);
    std::fs::write(www.join("page"), name).unwrap();
    let dir = lab.path(&format!("installation-{name}"));
    std::fs::create_dir(&dir).unwrap();
    let tool = Tool::bare(&dir, &format!("server: none\nfiles: [{}]\n", text(&www)));
    tool.ok(&["init"]);
    tool
}

fn held(tool: &Tool) -> String {
    let set = tool.json(&["snapshot", "create"]);
    set["volumes"][0]["snapshot"]["name"].as_str().unwrap().to_owned()
}

#[test]
fn what_another_installation_made_is_named_and_left_alone() {
    let Some(lab) = Lab::new() else { return };
    let (one, two) = (installation(&lab, "one"), installation(&lab, "two"));
    let (own, precious) = (held(&one), held(&two));
    std::fs::remove_dir_all(&one.state).unwrap();
    // As an older version made them: nothing tells whose they are.
    let report = one.json(&["cleanup", "--dry-run"]);
    assert!(names(&report, "orphans").contains(&own), "{report}");
    assert!(names(&report, "not_ours").contains(&precious) && !names(&report, "orphans").contains(&precious));
    assert!(names(&report, "removed_orphans").is_empty());
    let said = one.run(&["cleanup", "--dry-run"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(
        said.contains("`snapback cleanup --orphans`") && said.contains("not ours: "),
        "{said}"
    );
    // Its own goes, the other's stays.
    let report = one.json(&["cleanup", "--orphans"]);
    assert_eq!(
        names(&report, "removed_orphans"),
        std::slice::from_ref(&own),
        "{report}"
    );
    assert_eq!(lab.storage.snapshots().len(), 1);
    // What is left is no reason to end otherwise than well.
    assert!(one.ok(&["cleanup"]).contains("nothing to clean up"));
    // By name it goes, when the name is right and it is not this installation's own.
    let held_by_two = two.run(&["cleanup", "--snapshot", &precious]);
    assert_eq!(held_by_two.status.code(), Some(2));
    assert_eq!(
        one.run(&["cleanup", "--snapshot", "/nowhere/snapback-x-1"])
            .status
            .code(),
        Some(2)
    );
    assert_eq!(lab.storage.snapshots().len(), 1);
    let report = one.json(&["cleanup", "--snapshot", &precious]);
    assert_eq!(names(&report, "removed_orphans"), [precious], "{report}");
    assert!(lab.storage.snapshots().is_empty());
}

#[test]
fn a_running_snapshot_of_another_installation_is_left_alone() {
    let Some(lab) = Lab::new() else { return };
    let (one, two) = (installation(&lab, "one"), installation(&lab, "two"));
    let gate = lab.path("gate");
    let point = format!("held.before-record=pause:{}", gate.display());
    let running = two.spawn(&point, &["--json", "snapshot", "create"]);
    crate::common::wait_for_file(&lab.path("gate.reached"));
    assert_eq!(lab.storage.snapshots().len(), 1);
    let report = one.json(&["cleanup", "--orphans"]);
    assert!(names(&report, "removed_orphans").is_empty(), "{report}");
    assert_eq!(lab.storage.snapshots().len(), 1, "{report}");
    // Not only because the run at work holds its lock: it is seen to be another's.
    let made = lab.storage.snapshots().remove(0);
    let is_it = |name: &String| name.ends_with(&made);
    let named = names(&report, "not_ours").into_iter().find(is_it);
    assert!(
        named.is_some() && !names(&report, "orphans").iter().any(is_it),
        "{report}"
    );
    if lab.storage.kind == Kind::Btrfs {
        // And the lock alone does, even when it is named.
        let report = one.json(&["cleanup", "--snapshot", &named.unwrap()]);
        assert!(names(&report, "removed_orphans").is_empty(), "{report}");
        assert!(report.to_string().contains("another run is reading it"), "{report}");
        assert_eq!(lab.storage.snapshots().len(), 1, "{report}");
    }
    std::fs::write(&gate, "").unwrap();
    let output = running.wait_with_output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 5)), "{output:?}");
}
