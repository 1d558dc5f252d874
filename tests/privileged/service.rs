//! A test's own server with a service: commands that stop it and start it again.

use std::path::{Path, PathBuf};

use crate::common::server::signal;
use crate::common::{Server, run, text};

/// Writes the commands into `dir`, and returns the YAML that names them. `work` is the server's own directory. It is started as it runs now, but for options that keep
/// replication from starting.
pub fn service(dir: &Path, work: &Path, server: &Server, more: &[&str]) -> String {
    let line: Vec<String> = std::fs::read(format!("/proc/{}/cmdline", server.pid()))
        .unwrap()
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .filter(|word| {
            !word.is_empty() && !word.starts_with("--skip-slave-start") && !word.starts_with("--skip-replica-start")
        })
        .collect();
    let (pid, log) = (work.join("pid"), work.join("log"));
    let stop = format!(
        "#!/bin/sh\nkill -TERM \"$(cat {0})\" && while kill -0 \"$(cat {0} 2>/dev/null)\" 2>/dev/null; do sleep 0.05; done\n",
        text(&pid)
    );
    let start = format!(
        "#!/bin/sh\n[ ! -e {1}/refuse ] || exit 1\nsetsid '{0}' >>{2} 2>&1 </dev/null &\n",
        line.join("' '"),
        text(dir),
        text(&log)
    );
    let mut yaml = "service:\n  limit: 2m\n".to_owned();
    for (verb, script) in [("stop", stop), ("start", start)] {
        let path = dir.join(format!("service-{verb}"));
        std::fs::write(&path, script).unwrap();
        run("chmod", &["755", &text(&path)]);
        yaml += &format!("  {verb}: [{}]\n", text(&path));
    }
    yaml + &more.join("\n") + "\n"
}

/// Ends the server that a service started, which is no child of ours, when the test does.
pub struct Ends {
    pub pid: PathBuf,
    /// The first server, which dies with its guard.
    pub not: Option<u32>,
}

impl Drop for Ends {
    fn drop(&mut self) {
        let number = std::fs::read_to_string(&self.pid)
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok());
        if let Some(number) = number.filter(|number| Some(*number) != self.not) {
            signal(number, rustix::process::Signal::KILL);
            let begun = std::time::Instant::now();
            while Path::new(&format!("/proc/{number}")).exists() && begun.elapsed().as_secs() < 20 {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }
}
