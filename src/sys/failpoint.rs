//! Named points at which tests make the tool die, fail or stop. Compiled to nothing without the feature `failpoints`.
//!
//! `SNAPBACK_FAILPOINTS="after-lock=kill;copy=sleep:500;commit=pause:/tmp/x"`. Actions: `kill` (SIGKILL), `term`, `int`, `panic`, `error`,
//! `sleep:MS`, `pause:FILE` (makes `FILE.reached`, then waits while `FILE` does not exist).

/// Acts if the point is armed.
///
/// # Errors
/// With the action `error`.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) -> crate::Result<()> {
    let armed = std::env::var("SNAPBACK_FAILPOINTS").unwrap_or_default();
    let action = armed.split(';').filter_map(|one| one.split_once('=')).find(|(point, _)| *point == name);
    match action {
        Some((_, action)) => act(name, action),
        None => Ok(()),
    }
}

/// Nothing, in a build that people install.
///
/// # Errors
/// Never.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &str) -> crate::Result<()> {
    Ok(())
}

#[cfg(feature = "failpoints")]
fn act(name: &str, action: &str) -> crate::Result<()> {
    use std::time::Duration;
    let raise = |signal| {
        let _ = signal_hook::low_level::raise(signal);
        // A handled signal is seen by the signal thread first.
        std::thread::sleep(Duration::from_millis(100));
    };
    match action.split_once(':').unwrap_or((action, "")) {
        ("kill", _) => raise(signal_hook::consts::SIGKILL),
        ("term", _) => raise(signal_hook::consts::SIGTERM),
        ("int", _) => raise(signal_hook::consts::SIGINT),
        ("panic", _) => panic!("failpoint {name}"),
        ("error", _) => return Err(crate::Error::failed(format!("failpoint {name}"))),
        ("sleep", ms) => std::thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0))),
        ("pause", file) => {
            let _ = std::fs::write(format!("{file}.reached"), name);
            while !std::path::Path::new(file).exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        (unknown, _) => panic!("failpoint {name}: unknown action {unknown}"),
    }
    Ok(())
}
