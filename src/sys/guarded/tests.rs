use super::*;

fn start(script: &str, dir: &Path) -> Running {
    let program = Program::find("sh").unwrap();
    Guarded {
        program: &program,
        arguments: &["-c".to_owned(), script.to_owned()],
        user: None,
        output: &dir.join("output"),
        writes: &[dir],
        copies: &[],
        instead: false,
    }
    .start()
    .unwrap()
}

fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The number that the script wrote for its child.
fn child_of(dir: &Path) -> String {
    let file = dir.join("pid");
    wait_for("no number was written", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))
    });
    std::fs::read_to_string(file).unwrap()
}

fn with_child(dir: &Path) -> String {
    format!("sleep 60 & echo $! > {}; wait", dir.join("pid").display())
}

#[test]
fn its_end_is_seen_and_what_it_left_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("sleep 60 & echo $! > {}; exit 3", dir.path().join("pid").display());
    let mut running = start(&script, dir.path());
    let status = running.wait(Duration::from_secs(10)).unwrap().unwrap();
    assert_eq!(status.code(), Some(3));
    let child = child_of(dir.path());
    wait_for("what it started lives on", || !lives(&child));
}

#[test]
fn dropping_it_kills_the_whole_group() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(&with_child(dir.path()), dir.path());
    let child = child_of(dir.path());
    assert!(lives(&child));
    drop(running);
    wait_for("a child of the wrapper lives on", || !lives(&child));
}

#[test]
fn it_writes_below_its_directories_only() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    if Confinement::to(&[dir.path()]).unwrap().rules.is_none() {
        return;
    }
    std::fs::write(other.path().join("live"), "live").unwrap();
    let (inside, outside) = (dir.path().display(), other.path().display());
    let script = format!(
        "echo x > {inside}/new; echo x > {outside}/new; rm {outside}/live; echo x >> {outside}/live; echo x > /dev/null && echo y > {inside}/null"
    );
    let mut running = start(&script, dir.path());
    running.wait(Duration::from_secs(10)).unwrap().unwrap();
    assert!(dir.path().join("new").exists() && dir.path().join("null").exists());
    assert!(!other.path().join("new").exists(), "it made a file elsewhere");
    assert_eq!(std::fs::read_to_string(other.path().join("live")).unwrap(), "live");
}

#[test]
fn it_sees_copies_where_the_originals_are_and_nobody_else_does() {
    if !crate::sys::host::is_root() {
        return;
    }
    let (dir, live) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let copy = dir.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    std::fs::write(copy.join("data"), "copy").unwrap();
    std::fs::write(live.path().join("data"), "live").unwrap();
    let program = Program::find("sh").unwrap();
    let (seen, file) = (dir.path().join("seen"), live.path().join("data"));
    let script = format!("cat {0} > {1}; echo changed > {0}", file.display(), seen.display());
    let mut running = Guarded {
        program: &program,
        arguments: &["-c".to_owned(), script],
        user: None,
        output: &dir.path().join("output"),
        writes: &[dir.path()],
        copies: &[
            (live.path().to_owned(), copy.clone()),
            ("/nonexistent".into(), dir.path().to_owned()),
        ],
        instead: false,
    }
    .start()
    .unwrap();
    running.wait(Duration::from_secs(10)).unwrap().unwrap();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    assert_eq!((read(&seen).as_str(), read(&file).as_str()), ("copy", "live"));
    assert_eq!(read(&copy.join("data")), "changed\n");
}

/// Runs itself again as the tool that is killed.
#[test]
fn it_dies_with_a_tool_that_is_killed() {
    const ROLE: &str = "SNAPBACK_TEST_GUARDED";
    if let Ok(dir) = std::env::var(ROLE) {
        let _running = start(&with_child(Path::new(&dir)), Path::new(&dir));
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut tool = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sys::guarded::tests::it_dies_with_a_tool_that_is_killed"])
        .env(ROLE, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let child = child_of(dir.path());
    assert!(lives(&child));
    tool.kill().unwrap();
    tool.wait().unwrap();
    wait_for("it outlived the tool", || !lives(&child));
}

#[test]
fn a_program_that_would_not_see_its_copies_is_not_started() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let started = Guarded {
        program: &Program::find("sh").unwrap(),
        arguments: &["-c".to_owned(), format!("touch {}", trace.display())],
        user: None,
        output: &dir.path().join("output"),
        writes: &[dir.path()],
        copies: &[("/nonexistent".into(), dir.path().to_owned())],
        instead: true,
    }
    .start();
    assert!(started.is_err());
    assert!(!trace.exists());
}

/// Else it would be shown what lies behind directories that its user cannot enter.
#[test]
fn what_its_user_could_have_exchanged_is_not_mounted_unless_it_is_that_users_own() {
    if !crate::sys::host::is_root() {
        return;
    }
    let (dir, live) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let user = (4711, 4712);
    let parent = dir.path().join("parent");
    let copy = parent.join("copy");
    std::fs::create_dir_all(&copy).unwrap();
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    open(dir.path());
    let start = || {
        Guarded {
            program: &Program::find("true").unwrap(),
            arguments: &[],
            user: Some(user),
            output: &dir.path().join("output"),
            writes: &[],
            copies: &[(live.path().to_owned(), copy.clone())],
            instead: true,
        }
        .start()
    };
    assert!(start().is_ok(), "all the way is root's");
    std::os::unix::fs::chown(&parent, Some(user.0), Some(user.1)).unwrap();
    assert!(start().is_err(), "its user could put anything there");
    std::os::unix::fs::chown(&copy, Some(user.0), Some(user.1)).unwrap();
    assert!(start().is_ok(), "its own");
}
