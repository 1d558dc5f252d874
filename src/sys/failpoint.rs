//! Named points at which a test makes the tool fail, wait or die. Compiled in only with the feature `failpoints`.
//!
//! `SNAPBACK_FAILPOINTS="name=action;other=action@3"`; `@3` means only at the third time that the point is reached
//! (without it, at the first and every later one). Actions:
//!
//! | action | does |
//! |---|---|
//! | `kill` | SIGKILL to this process |
//! | `abort`, `panic` | as they say |
//! | `error` | the function returns its error (only at points that can: `failpoint!("name", \|\| error)`) |
//! | `sleep:MS` | waits so many milliseconds |
//! | `pause:FILE` | makes `FILE.reached` and waits until FILE exists (5 minutes at most, then aborts) |
//! | `signal:N` | signal number N to this process |

/// A named point: `failpoint!("name")`, or `failpoint!("name", || error)` where an error can be returned.
#[macro_export]
macro_rules! failpoint {
    ($name:expr) => {{
        #[cfg(feature = "failpoints")]
        $crate::sys::failpoint::reach($name);
    }};
    ($name:expr, $error:expr) => {{
        #[cfg(feature = "failpoints")]
        if $crate::sys::failpoint::reach($name) {
            let make = $error;
            return Err(::std::convert::From::from(make()));
        }
    }};
}

/// Whether a test asks for something at a named point (its action is `error`), for points that take another way and do not fail.
pub fn asked(name: &str) -> bool {
    #[cfg(feature = "failpoints")]
    return armed::reach(name);
    #[cfg(not(feature = "failpoints"))]
    {
        let _ = name;
        false
    }
}

#[cfg(feature = "failpoints")]
pub use armed::reach;

#[cfg(feature = "failpoints")]
mod armed {
    use std::collections::HashMap;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{LazyLock, OnceLock};
    use std::time::{Duration, Instant};

    use rustix::process::{Signal, getpid, kill_process};

    struct Point {
        action: String,
        at: Option<u64>,
        reached: AtomicU64,
    }

    static POINTS: LazyLock<HashMap<String, Point>> =
        LazyLock::new(|| parse(&std::env::var("SNAPBACK_FAILPOINTS").unwrap_or_default()));

    fn parse(text: &str) -> HashMap<String, Point> {
        let point = |text: &str| {
            let (name, action) = text.split_once('=')?;
            let (action, at) = match action.rsplit_once('@') {
                Some((action, at)) => (action, Some(at.parse().ok()?)),
                None => (action, None),
            };
            let (action, reached) = (action.trim().to_owned(), AtomicU64::new(0));
            Some((name.trim().to_owned(), Point { action, at, reached }))
        };
        text.split(';').filter_map(point).collect()
    }

    /// Does what the environment asks at this point; true when the caller shall return an error.
    pub fn reach(name: &str) -> bool {
        static NONE: OnceLock<bool> = OnceLock::new();
        if *NONE.get_or_init(|| POINTS.is_empty()) {
            return false;
        }
        let Some(point) = POINTS.get(name) else { return false };
        let times = point.reached.fetch_add(1, Ordering::SeqCst) + 1;
        if point.at.is_some_and(|at| at != times) {
            return false;
        }
        tracing::warn!(name, action = point.action, times, "failpoint");
        act(&point.action, name)
    }

    fn act(action: &str, name: &str) -> bool {
        let (verb, argument) = action.split_once(':').unwrap_or((action, ""));
        match verb {
            "error" => return true,
            "kill" => signal(Signal::KILL),
            "signal" => signal(
                argument
                    .parse()
                    .ok()
                    .and_then(Signal::from_named_raw)
                    .unwrap_or(Signal::TERM),
            ),
            "abort" => std::process::abort(),
            "panic" => panic!("failpoint {name}"),
            "sleep" => std::thread::sleep(Duration::from_millis(argument.parse().unwrap_or(0))),
            "pause" | "stop" => pause(argument),
            _ => panic!("failpoint {name}: unknown action `{action}`"),
        }
        false
    }

    fn signal(signal: Signal) {
        let _ = kill_process(getpid(), signal);
        if signal == Signal::KILL {
            std::process::abort();
        }
    }

    fn pause(file: &str) {
        let until = Instant::now() + Duration::from_secs(300);
        if std::fs::write(format!("{file}.reached"), b"").is_err() {
            std::process::abort();
        }
        while !PathBuf::from(file).exists() {
            if Instant::now() > until {
                std::process::abort();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn points_are_read_from_the_environments_text() {
            let points = parse("a=kill;b = sleep:5@3;broken");
            assert_eq!(points.len(), 2);
            assert_eq!((points["b"].action.as_str(), points["b"].at), ("sleep:5", Some(3)));
        }

        fn fails(number: u32) -> std::io::Result<u32> {
            crate::failpoint!("third", || std::io::Error::other("failpoint"));
            Ok(number)
        }

        /// Runs itself again as the process that has the points in its environment.
        #[test]
        fn points_act_when_they_are_reached() {
            use std::os::unix::process::ExitStatusExt;
            const ROLE: &str = "SNAPBACK_TEST_FAILPOINT";
            const NAME: &str = "sys::failpoint::armed::tests::points_act_when_they_are_reached";
            if std::env::var_os(ROLE).is_some() {
                crate::failpoint!("elsewhere");
                let answers: Vec<bool> = (0..4).map(|number| fails(number).is_ok()).collect();
                assert_eq!(answers, [true, true, false, true]);
                crate::failpoint!("gate");
                crate::failpoint!("end");
                return;
            }
            let dir = tempfile::tempdir().unwrap();
            let gate = dir.path().join("gate");
            let points = format!("third=error@3;gate=pause:{};end=kill", gate.display());
            let mut child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", NAME])
                .env(ROLE, "child")
                .env("SNAPBACK_FAILPOINTS", points)
                .spawn()
                .unwrap();
            let until = Instant::now() + Duration::from_secs(30);
            while !dir.path().join("gate.reached").exists() {
                assert!(
                    child.try_wait().unwrap().is_none() && Instant::now() < until,
                    "the gate was not reached"
                );
                std::thread::sleep(Duration::from_millis(2));
            }
            assert!(child.try_wait().unwrap().is_none(), "it waits at the gate");
            std::fs::write(&gate, "").unwrap();
            assert_eq!(child.wait().unwrap().signal(), Some(9));
        }

        #[test]
        fn an_error_is_asked_of_the_caller() {
            assert!(act("error", "x"));
            assert!(!act("sleep:1", "x"));
        }
    }
}
