//! perl-base, which every Debian has, plays the vendor's command.

use super::*;
use crate::sys::command::Program;

/// Some ioctls that no file of these tests knows: they fail with ENOTTY once they are let through.
const FIRST: u32 = 0xc138_fd06;
const OTHER: u32 = 0xc138_fd07;

/// A script in which `call(request, number, "name")` makes an ioctl with a struct dm_ioctl, and `say` writes to standard output at once.
fn script(body: &str) -> Command {
    let prelude = "$| = 1; sub call { my $a = pack('x28 L x16 Z128 x128', $_[1], $_[2]); ioctl(STDIN, $_[0], $a); $error = $! + 0 } ";
    Command::new(&Program::find("perl").unwrap())
        .args(["-e", &format!("{prelude}{body}")])
        .limit(Duration::from_secs(20))
}

fn suspend_of(name: &'static str) -> impl Fn(&Report) -> bool {
    move |report| report.number_at(28) & 2 != 0 && report.text_at(48, 128) == name
}

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_command_is_held_at_the_one_call_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    let body = format!(
        "call({FIRST}, 0, 'origin'); call({FIRST}, 2, 'other'); call({OTHER}, 2, 'origin'); open(F, '>{}'); close F; \
         call({FIRST}, 2, 'origin'); open(F, '>{}'); close F; call({FIRST}, 0, 'origin'); print qq(error $error);",
        before.display(),
        after.display()
    );
    let mut brink = Brink::start(&script(&body), &[FIRST], None).unwrap();
    assert!(brink.reach(suspend_of("origin"), LIMIT).unwrap());
    assert!(before.exists());
    std::thread::sleep(Duration::from_millis(100));
    assert!(!after.exists(), "it did not wait");
    brink.go(LIMIT).unwrap();
    assert!(after.exists(), "go returned before the call had");
    // ENOTTY: the kernel made the call itself.
    assert_eq!(brink.finish().unwrap(), b"error 25");
}

#[test]
fn a_last_call_is_known_to_be_made_when_the_command_ends() {
    let mut brink = Brink::start(&script(&format!("call({FIRST}, 2, 'x');")), &[FIRST], None).unwrap();
    assert!(brink.reach(suspend_of("x"), LIMIT).unwrap());
    brink.go(LIMIT).unwrap();
    brink.finish().unwrap();
}

#[test]
fn a_command_that_never_gets_there_is_let_run() {
    let mut brink = Brink::start(&script("print 1; exit 3"), &[FIRST], None).unwrap();
    assert!(!brink.reach(suspend_of("x"), LIMIT).unwrap());
    let error = brink.finish().unwrap_err().to_string();
    assert!(error.contains("exit status: 3"), "{error}");

    let mut slow = Brink::start(
        &script(&format!("sleep 1; call({FIRST}, 2, 'x'); print $error")),
        &[FIRST],
        None,
    )
    .unwrap();
    assert!(!slow.reach(suspend_of("x"), Duration::from_millis(100)).unwrap());
    assert_eq!(slow.finish().unwrap(), b"25", "past the limit it is held no more");
}

#[test]
fn a_command_that_is_let_go_at_the_brink_runs_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let after = dir.path().join("after");
    let body = format!(
        "call({FIRST}, 2, 'x'); open(F, '>{}'); print F $error;",
        after.display()
    );
    let mut brink = Brink::start(&script(&body), &[FIRST], None).unwrap();
    assert!(brink.reach(suspend_of("x"), LIMIT).unwrap());
    drop(brink);
    assert_eq!(std::fs::read_to_string(after).unwrap(), "25");
}

#[test]
fn a_command_that_dies_at_the_brink_is_reported() {
    let mut brink = Brink::start(&script(&format!("call({FIRST}, 2, 'x'); print 1")), &[FIRST], None).unwrap();
    assert!(brink.reach(suspend_of("x"), LIMIT).unwrap());
    let pid = brink.running.as_ref().unwrap().pid();
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    brink.go(LIMIT).unwrap();
    let error = brink.finish().unwrap_err().to_string();
    assert!(error.contains("signal: 9"), "{error}");
}

#[test]
fn the_calls_of_children_are_seen_and_their_end_is_not_the_commands() {
    let body =
        format!("call({FIRST}, 2, 'x'); if (!fork) {{ exit 0 }} wait; select(undef, undef, undef, 0.3); print 'end';");
    let mut brink = Brink::start(&script(&body), &[FIRST], None).unwrap();
    assert!(brink.reach(suspend_of("x"), LIMIT).unwrap());
    let begun = Instant::now();
    brink.go(LIMIT).unwrap();
    assert!(
        begun.elapsed() >= Duration::from_millis(250),
        "the child's end was taken for the command's"
    );
    assert_eq!(brink.finish().unwrap(), b"end");
}

#[test]
fn a_program_that_cannot_be_started_is_an_error_and_leaves_nothing() {
    let nothing = Command::new(&Program::at("/nowhere/snapback-test"));
    let error = Brink::start(&nothing, &[FIRST], None).unwrap_err();
    assert!(!unsupported(&error), "{error}");
}

/// Our own death: the descriptors go, nobody is asked any more, and the command ends well.
#[test]
fn the_supervisor_outlives_us() {
    if let Ok(after) = std::env::var("SNAPBACK_BRINK_AFTER") {
        // The one that is killed.
        // Its output has no reader any more.
        let body = format!(
            "call({FIRST}, 2, 'x'); my $e = $error; print 'x'; open(F, '>{after}'); print F $e; close F; sleep 0"
        );
        let mut brink = Brink::start(&script(&body), &[FIRST], None).unwrap();
        assert!(brink.reach(suspend_of("x"), LIMIT).unwrap());
        std::fs::write(format!("{after}-held"), "").unwrap();
        std::thread::sleep(LIMIT);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (after, held) = (dir.path().join("after"), dir.path().join("after-held"));
    let mut other = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sys::brink::tests::the_supervisor_outlives_us"])
        .env("SNAPBACK_BRINK_AFTER", &after)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&|| held.exists(), "the command did not get to the brink");
    assert!(!after.exists());
    other.kill().unwrap();
    other.wait().unwrap();
    let written = || std::fs::read_to_string(&after).unwrap_or_default() == "25";
    wait_for(&written, "the command was not let go");
}

/// The time of a wait for the lock is not the command's.
#[test]
fn waiting_at_the_brink_does_not_count_for_the_limit() {
    let limit = Duration::from_secs(1);
    let body = format!("call({FIRST}, 2, 'x'); select(undef, undef, undef, 0.3); print 'end';");
    let mut brink = Brink::start(&script(&body).limit(limit), &[FIRST], None).unwrap();
    assert!(brink.reach(suspend_of("x"), LIMIT).unwrap());
    std::thread::sleep(limit + Duration::from_millis(200));
    brink.go(LIMIT).unwrap();
    assert_eq!(brink.finish().unwrap(), b"end");

    let mut brink = Brink::start(&script(&body).limit(limit), &[FIRST], None).unwrap();
    assert!(brink.reach(suspend_of("x"), LIMIT).unwrap());
    std::thread::sleep(limit + Duration::from_millis(200));
    assert_eq!(brink.finish().unwrap(), b"end", "given up, it ends as well");
}

/// Killed between suspend and resume, it would leave a device on which everybody hangs.
#[test]
fn a_command_past_its_limit_is_reported_and_never_killed() {
    let dir = tempfile::tempdir().unwrap();
    let after = dir.path().join("after");
    let body = format!(
        "call({FIRST}, 2, 'x'); sleep 2; call({FIRST}, 0, 'x'); open(F, '>{}'); print F $error;",
        after.display()
    );
    let command = script(&body).limit(Duration::from_millis(300));
    let mut brink = Brink::start(&command, &[FIRST], None).unwrap();
    assert!(brink.reach(suspend_of("x"), LIMIT).unwrap());
    assert!(
        brink.go(Duration::from_millis(100)).is_err(),
        "the next call comes later"
    );
    let error = brink.finish().unwrap_err();
    assert!(matches!(error, Error::StillRunning { .. }), "{error}");
    assert!(!after.exists());
    wait_for(
        &|| std::fs::read_to_string(&after).unwrap_or_default() == "25",
        "it was killed",
    );
}

/// A kernel that refuses a second listener, as an example of all that `pre_exec` can meet.
#[test]
fn a_filter_that_cannot_be_installed_is_known_as_unsupported() {
    let allow = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };
    // On a thread of its own, whose children have the filter too.
    let found = std::thread::spawn(move || {
        let program = libc::sock_fprog {
            len: 1,
            filter: std::ptr::from_ref(&allow).cast_mut(),
        };
        // SAFETY: the program outlives the call.
        let listener = unsafe {
            let flag = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flag,
                std::ptr::from_ref(&program),
            )
        };
        assert!(listener >= 0, "{}", io::Error::last_os_error());
        let started = Brink::start(&script("print 1"), &[FIRST], None).map(drop);
        // SAFETY: ours.
        unsafe { libc::close(listener as i32) };
        started
    });
    let error = found.join().unwrap().unwrap_err();
    assert_eq!(error.errno(), Some(libc::EBUSY), "{error}");
    assert!(unsupported(&error), "{error}");
}

#[test]
fn an_argument_that_cannot_be_read_is_known_as_such() {
    let body = format!("ioctl(STDIN, {FIRST}, 8); call({FIRST}, 2, 'x');");
    let mut brink = Brink::start(&script(&body), &[FIRST], None).unwrap();
    assert!(brink.reach(|report| !report.is_readable(), LIMIT).unwrap());
    brink.go(LIMIT).unwrap();
    brink.finish().unwrap();
    let mut brink = Brink::start(&script(&format!("call({FIRST}, 2, 'x')")), &[FIRST], None).unwrap();
    assert!(brink.reach(Report::is_readable, LIMIT).unwrap());
    brink.finish().unwrap();
}

/// What may lie on the device that is suspended must be in memory; and it is not the one to be ended when memory runs out.
#[test]
fn the_supervisor_is_locked_in_memory() {
    let mut brink = Brink::start(&script(&format!("call({FIRST}, 2, 'x')")), &[FIRST], None).unwrap();
    assert!(brink.reach(suspend_of("x"), LIMIT).unwrap());
    let proc = std::path::PathBuf::from(format!("/proc/{}", brink.supervisor.pid().unwrap()));
    let status = std::fs::read_to_string(proc.join("status")).unwrap();
    let number = |field: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    assert!(number("VmLck:") * 10 > number("VmSize:") * 8, "{status}");
    // CAP_SYS_RESOURCE, which a container may lack.
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let capabilities = own.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    if u64::from_str_radix(capabilities.trim(), 16).unwrap() & 1 << 24 != 0 {
        let badness = std::fs::read_to_string(proc.join("oom_score_adj")).unwrap();
        assert_eq!(badness.trim(), "-1000");
    }
    brink.finish().unwrap();
}

fn wait_for(done: &dyn Fn() -> bool, what: &str) {
    let until = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
