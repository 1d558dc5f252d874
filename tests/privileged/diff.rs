//! `snapback snapshot diff` on real storage names exactly what differs: also what was overwritten in place and got its time back, and on Btrfs what was written to
//! at the very instant of the set.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use crate::common::{Kind, Lab, Tool, both, run, text, wait_for_file};

/// Files on a volume, and no server.
struct Scene {
    tool: Tool,
    files: PathBuf,
    lab: Lab,
}

const PAGE: usize = 16 << 10;

impl Scene {
    fn new() -> Option<Scene> {
        let lab = Lab::new()?;
        let files = lab.storage.volume("db").join("files");
        std::fs::create_dir(&files).unwrap();
        let tool = Tool::bare(lab.dir.path(), &format!("server: none\nfiles: [{}]\n", text(&files)));
        tool.ok(&["init", "--repository", &text(&tool.repository)]);
        Some(Scene { tool, files, lab })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.join(name)
    }

    /// A new file of so many bytes that are not compressed away.
    fn fill(&self, name: &str, bytes: usize) {
        let content: Vec<u8> = (0..bytes as u64 / 8 + 1)
            .flat_map(|word| (word.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes())
            .take(bytes)
            .collect();
        std::fs::write(self.file(name), content).unwrap();
    }

    fn sync(&self) {
        run("sync", &["-f", &text(&self.files)]);
    }

    fn diff(&self) -> Value {
        let diff = self.tool.json(&["snapshot", "diff", "latest"]);
        let way = if self.lab.storage.kind == Kind::Btrfs {
            "extents"
        } else {
            "metadata"
        };
        assert_eq!(diff["way"], way, "{diff}");
        diff
    }

    /// What happened, and what was written, by name.
    fn told(&self, diff: &Value) -> BTreeMap<String, (String, Option<u64>)> {
        let changes = diff["changes"].as_array().unwrap();
        let one = |change: &Value| {
            let path = Path::new(change["path"].as_str().unwrap());
            let name = text(path.strip_prefix(&self.files).unwrap());
            (
                name,
                (change["what"].as_str().unwrap().to_owned(), change["written"].as_u64()),
            )
        };
        changes.iter().map(one).collect()
    }

    /// Names below the files of which presence or content differ from the set's, by reading all of both.
    fn differ(&self) -> Vec<String> {
        let at = self.lab.path("shown");
        std::fs::create_dir_all(&at).unwrap();
        self.tool.ok(&["snapshot", "mount", "latest", &text(&at)]);
        let then = contents(&at.join(self.files.strip_prefix("/").unwrap()));
        let now = contents(&self.files);
        run("umount", &["-R", &text(&at)]);
        let mut names: Vec<String> = then.keys().chain(now.keys()).cloned().collect();
        names.sort();
        names.dedup();
        names.retain(|name| then.get(name) != now.get(name));
        names
    }

    fn end(&self) {
        self.tool.ok(&["snapshot", "delete", "latest"]);
        assert!(self.lab.storage.snapshots().is_empty());
    }
}

/// What each file below a directory has.
fn contents(top: &Path) -> BTreeMap<String, blake3::Hash> {
    let mut found = BTreeMap::new();
    let mut open = vec![top.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = text(path.strip_prefix(top).unwrap());
                found.insert(name, blake3::hash(&std::fs::read(&path).unwrap()));
            }
        }
    }
    found
}

/// Overwrites and puts the modification time back, as tools that mean well do.
fn overwrite_and_put_the_time_back(path: &Path, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    let before: SystemTime = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(bytes, at).unwrap();
    file.sync_all().unwrap();
    file.set_modified(before).unwrap();
    assert_eq!(std::fs::metadata(path).unwrap().modified().unwrap(), before);
}

#[test]
fn diff_names_what_differs_by_content_and_nothing_else() {
    let Some(scene) = Scene::new() else { return };
    let all = [
        "same",
        "same-small",
        "read",
        "in-place",
        "in-place-small",
        "appended",
        "truncated",
        "emptied",
        "renamed",
        "removed",
        "linked",
        "link-written",
        "replaced",
        "holes",
        "mapped",
        "moved-over",
        "mode",
        "reserved",
    ];
    for name in all {
        scene.fill(name, if name.ends_with("small") { 700 } else { 64 * PAGE });
    }
    std::fs::create_dir(scene.file("sub")).unwrap();
    scene.fill("sub/deep", PAGE);
    std::fs::hard_link(scene.file("link-written"), scene.file("link-other")).unwrap();
    scene.sync();
    scene.tool.json(&["snapshot", "create"]);
    assert_eq!(scene.told(&scene.diff()), BTreeMap::new());

    std::fs::read(scene.file("read")).unwrap();
    for page in [3, 17, 40] {
        overwrite_and_put_the_time_back(&scene.file("in-place"), page * PAGE as u64, &[0xA5; PAGE]);
    }
    overwrite_and_put_the_time_back(&scene.file("in-place-small"), 10, b"other");
    let append = |name: &str| File::options().append(true).open(scene.file(name)).unwrap();
    std::io::Write::write_all(&mut append("appended"), &[1; PAGE]).unwrap();
    append("truncated").set_len(5 * PAGE as u64).unwrap();
    append("emptied").set_len(0).unwrap();
    std::fs::rename(scene.file("renamed"), scene.file("renamed-now")).unwrap();
    std::fs::remove_file(scene.file("removed")).unwrap();
    std::fs::hard_link(scene.file("linked"), scene.file("linked-too")).unwrap();
    overwrite_and_put_the_time_back(&scene.file("link-other"), 0, &[9; PAGE]);
    scene.fill("new", 3 * PAGE);
    std::fs::write(scene.file("replaced.tmp"), vec![7; 64 * PAGE]).unwrap();
    std::fs::rename(scene.file("replaced.tmp"), scene.file("replaced")).unwrap();
    std::fs::rename(scene.file("same-small"), scene.file("moved-over")).unwrap();
    run(
        "fallocate",
        &[
            "--punch-hole",
            "--offset",
            "0",
            "--length",
            "65536",
            &text(&scene.file("holes")),
        ],
    );
    run(
        "python3",
        &[
            "-c",
            "import mmap,sys\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\nm[5000:5004]=b'abcd'\nm.flush()",
            &text(&scene.file("mapped")),
        ],
    );
    std::fs::set_permissions(scene.file("mode"), std::fs::Permissions::from_mode(0o600)).unwrap();
    scene.fill("sub/deep-new", 100);
    scene.sync();

    let diff = scene.diff();
    let told = scene.told(&diff);
    let mut names: Vec<&str> = told.keys().map(String::as_str).collect();
    // Their names or modes changed, and not their content: that is told too.
    let mut wanted = scene.differ();
    wanted.extend(["linked", "mode"].map(str::to_owned));
    wanted.sort();
    names.sort_unstable();
    assert_eq!(names, wanted, "{diff}");
    let what = |name: &str| told[name].0.as_str();
    for name in [
        "in-place",
        "in-place-small",
        "link-written",
        "link-other",
        "mapped",
        "holes",
        "emptied",
    ] {
        assert_eq!(what(name), "changed", "{name}");
    }
    for name in ["renamed-now", "linked-too", "new", "sub/deep-new"] {
        assert_eq!(what(name), "added", "{name}");
    }
    for name in ["renamed", "removed", "same-small"] {
        assert_eq!(what(name), "removed", "{name}");
    }
    if scene.lab.storage.kind == Kind::Btrfs {
        let written = |name: &str| told[name].1;
        let pages = |count: usize| Some((count * PAGE) as u64);
        assert_eq!(written("in-place"), pages(3), "{diff}");
        assert_eq!(written("link-written"), pages(1));
        assert_eq!(written("link-other"), pages(1));
        assert_eq!(written("appended"), pages(1));
        assert_eq!(written("new"), pages(3));
        assert_eq!(written("replaced"), pages(64));
        assert_eq!(written("mapped"), Some(4096));
        assert_eq!(written("removed"), None);
        for name in [
            "truncated",
            "emptied",
            "renamed-now",
            "linked",
            "linked-too",
            "holes",
            "mode",
            "moved-over",
        ] {
            assert_eq!(written(name), Some(0), "{name}");
        }
        // Both names of one file are one.
        let small = written("in-place-small").unwrap() + written("sub/deep-new").unwrap();
        let sum = (3 + 1 + 1 + 3 + 64) * PAGE as u64 + 4096 + small;
        assert_eq!(diff["written"].as_u64(), Some(sum), "{diff}");
    } else {
        assert!(told.values().all(|(_, written)| written.is_none()), "{diff}");
    }
    let shown = scene.tool.ok(&["snapshot", "diff", "latest"]);
    assert!(shown.contains("by size"), "{shown}");
    scene.end();
}

/// A write that is under way while the snapshot is taken may leave the new times in it and not the new content.
#[test]
fn what_is_written_at_the_instant_of_the_set_is_told_whether_it_is_in_it_or_not() {
    let Some(scene) = Scene::new() else { return };
    let (count, rounds) = if scene.lab.storage.kind == Kind::Btrfs {
        (6000, 3)
    } else {
        (400, 1)
    };
    for round in 0..rounds {
        for number in 0..count {
            std::fs::write(scene.file(&format!("f{number}")), vec![b'a'; 64 << 10]).unwrap();
        }
        scene.sync();
        let gate = scene.lab.path(&format!("gate-{round}"));
        let point = scene.lab.storage.kind.failpoints().0;
        let child = scene
            .tool
            .spawn(&format!("{point}=pause:{}", gate.display()), &["snapshot", "create"]);
        wait_for_file(&gate.with_extension("reached"));
        std::thread::scope(|scope| {
            for part in 0..4 {
                let files = &scene.files;
                // Each file once, so that nothing later gives it another time.
                scope.spawn(move || {
                    for number in (part..count).step_by(4) {
                        let path = files.join(format!("f{number}"));
                        let file = File::options().write(true).open(path).unwrap();
                        file.write_all_at(&[b'b'; 64 << 10], 0).unwrap();
                    }
                });
            }
            std::fs::write(&gate, "").unwrap();
        });
        let output = child.wait_with_output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 5)), "{}", both(&output));
        let told = scene.told(&scene.diff());
        let missed: Vec<String> = scene
            .differ()
            .into_iter()
            .filter(|name| !told.contains_key(name))
            .collect();
        eprintln!("{} of {count} files differ", told.len());
        assert_eq!(missed, Vec::<String>::new(), "they differ, and are not told");
        scene.end();
    }
}
