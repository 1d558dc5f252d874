use super::*;

fn shell(script: &str) -> Command {
    Command::new(&Program::find("sh").unwrap()).args(["-c", script])
}

#[test]
fn output_comes_back_and_input_is_empty() {
    assert_eq!(shell("cat; echo $LC_ALL").run().unwrap(), b"C\n");
}

#[test]
fn nothing_of_our_environment_is_handed_on() {
    // The test's own environment has more than this: cargo's variables.
    let said = Command::new(&Program::find("env").unwrap())
        .envs([("SNAPBACK_X", "y".to_owned())])
        .run()
        .unwrap();
    let said = String::from_utf8(said).unwrap();
    let mut names: Vec<&str> = said.lines().filter_map(|line| line.split('=').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "LC_ALL", "PATH", "SNAPBACK_X"]);
}

#[test]
fn success_is_the_exit_status_and_not_a_silent_stderr() {
    assert!(shell("echo careful >&2").run().is_ok());
    let error = shell("echo broken >&2; exit 3").run().unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.contains("broken"), "{error}");
}

#[test]
fn a_slow_program_dies_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let begun = Instant::now();
    let script = format!("sleep 60 & echo $! > {}; wait", pid.display());
    let error = shell(&script)
        .limit(Duration::from_millis(300))
        .run()
        .unwrap_err()
        .to_string();
    assert!(error.contains("took longer"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let stat = format!("/proc/{}/stat", std::fs::read_to_string(pid).unwrap().trim());
    let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    let until = Instant::now() + Duration::from_secs(5);
    while !gone() {
        assert!(Instant::now() < until, "the child's child lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = Program::find("snapback-no-such-program").unwrap_err().to_string();
    assert!(error.contains("snapback-no-such-program"), "{error}");
}

#[test]
fn a_spared_program_is_reported_and_runs_on() {
    let dir = tempfile::tempdir().unwrap();
    let done = dir.path().join("done");
    // It writes to pipes that nobody reads any more.
    let script = format!("sleep 1.5; echo out; echo err >&2; echo $? > {}", done.display());
    let error = shell(&script)
        .limit(Duration::from_millis(200))
        .spared()
        .run()
        .unwrap_err();
    assert!(matches!(error, Error::StillRunning { .. }), "{error}");
    assert!(!done.exists());
    let until = Instant::now() + Duration::from_secs(20);
    while std::fs::read_to_string(&done).unwrap_or_default().is_empty() {
        assert!(Instant::now() < until, "it was killed");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_program_that_cannot_be_started_says_what_the_kernel_said() {
    let error = Command::new(&Program::at("/nowhere/snapback-test")).run().unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENOENT), "{error}");
    assert!(error.to_string().contains("/nowhere/snapback-test"), "{error}");
}
