//! Seven loops on one repository at once: two hosts back up what changes under them, others restore, verify, forget, prune and repair. In the end every
//! backup that is listed is whole, and says of its files what they were.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Lab, Tool, both, rounds, text};

/// A host of its own with a tree of files on the lab's storage.
struct Host {
    tool: Tool,
    tree: PathBuf,
}

impl Host {
    fn new(lab: &Lab, name: &str) -> Host {
        let tree = lab.storage.volume(name);
        let dir = lab.path(name);
        std::fs::create_dir(&dir).unwrap();
        let config = dir.join("snapback.yaml");
        let (repository, state) = (lab.path("repository"), dir.join("state"));
        let yaml = format!(
            "repository: {}\nstate_dir: {}\nhost: {name}\nserver: none\nfiles: [{}]\n",
            text(&repository),
            text(&state),
            text(&tree)
        );
        std::fs::write(&config, yaml).unwrap();
        let tool = Tool {
            config,
            repository,
            state,
        };
        Host { tool, tree }
    }

    /// Every file says the same number: a backup in which they differ is none of one instant.
    fn change(&self, number: usize) {
        for file in 0..40 {
            let path = self.tree.join(format!("f{file}"));
            let line = format!("{number} of {file}\n");
            std::fs::write(path, line.repeat(2_000 + number % 50)).unwrap();
        }
    }

    fn ids(&self) -> Vec<String> {
        let host = self
            .tool
            .config
            .parent()
            .unwrap()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap();
        let list = self.tool.json(&["list"]);
        let ours = list.as_array().unwrap().iter().filter(|one| one["host"] == host);
        ours.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    }

    fn restore(&self, id: &str, at: &Path) -> std::process::Output {
        let _ = std::fs::remove_dir_all(at);
        self.tool.run(&["--quiet", "restore", id, "--target", &text(at)])
    }

    fn assert_of_one_change(&self, at: &Path) {
        let top = at.join(self.tree.strip_prefix("/").unwrap());
        let number = |file: usize| {
            let content = std::fs::read_to_string(top.join(format!("f{file}"))).unwrap();
            let mut lines = content.lines();
            let first = lines.next().unwrap_or_default().to_owned();
            assert!(lines.all(|line| line == first), "f{file} is of two changes");
            first.split(' ').next().unwrap().to_owned()
        };
        let first = number(0);
        for file in 1..40 {
            assert_eq!(number(file), first, "f{file} is of another change");
        }
    }
}

#[test]
fn seven_loops_on_one_repository() {
    let Some(lab) = Lab::new() else { return };
    let (a, b) = (Host::new(&lab, "a"), Host::new(&lab, "b"));
    let (at, in_the_end) = (lab.path("restored"), lab.path("in-the-end"));
    a.tool.ok(&["init", "--repository", &text(&a.tool.repository)]);
    for host in [&a, &b] {
        host.change(0);
        host.tool.json(&["backup"]);
    }
    let until = Instant::now() + Duration::from_secs(rounds(10));
    let (stop, counts) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 7]);
    let repeat = |which: usize, work: &dyn Fn(usize)| {
        let mut number = 1;
        while Instant::now() < until && !stop.load(Ordering::SeqCst) {
            work(number);
            counts[which].fetch_add(1, Ordering::SeqCst);
            number += 1;
        }
    };
    let expect = |output: std::process::Output, allowed: &[i32]| {
        let status = output.status.code().unwrap_or(-1);
        assert!(allowed.contains(&status), "{}", both(&output));
    };
    std::thread::scope(|threads| {
        let works: [Box<dyn Fn(usize) + Send + Sync>; 7] = [
            Box::new(|number| {
                a.change(number);
                expect(a.tool.run(&["--quiet", "backup"]), &[0, 5]);
            }),
            Box::new(|number| {
                b.change(number);
                expect(b.tool.run(&["--quiet", "backup"]), &[0, 5]);
            }),
            Box::new(|number| {
                let ids = b.ids();
                let id = &ids[number % ids.len()];
                let output = b.restore(id, &at);
                if output.status.success() {
                    b.assert_of_one_change(&at);
                } else {
                    assert!(!b.ids().contains(id), "{}", both(&output));
                }
            }),
            Box::new(|_| expect(a.tool.run(&["--quiet", "verify", "--all", "--level", "data"]), &[0, 5])),
            Box::new(|_| expect(a.tool.run(&["--quiet", "forget", "--keep-last", "3"]), &[0, 5])),
            Box::new(|_| expect(b.tool.run(&["--quiet", "prune", "--grace", "2h"]), &[0, 5])),
            Box::new(|_| expect(b.tool.run(&["--quiet", "repair"]), &[0, 5])),
        ];
        let repeat = &repeat;
        let stop = &stop;
        for (which, work) in works.into_iter().enumerate() {
            threads.spawn(move || {
                // One that fails ends the others as well.
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| repeat(which, &*work)));
                if let Err(panic) = done {
                    stop.store(true, Ordering::SeqCst);
                    std::panic::resume_unwind(panic);
                }
            });
        }
    });
    eprintln!("rounds of the seven loops: {counts:?}");
    assert!(
        counts.iter().all(|count| count.load(Ordering::SeqCst) > 0),
        "{counts:?}"
    );
    a.tool.ok(&["verify", "--all", "--level", "data"]);
    for host in [&a, &b] {
        for id in host.ids() {
            let output = host.restore(&id, &in_the_end);
            assert!(output.status.success(), "{}", both(&output));
            host.assert_of_one_change(&in_the_end);
        }
    }
}
