//! Our mark: the names by which snapshots of ours are known for ever.

use crate::units::Id;

const PREFIX: &str = "snapback-";

/// The name of a run's snapshot of the volume that the provider numbers so: `snapback-<run>-<number>`.
pub fn name(run: Id, number: u64) -> String {
    format!("{PREFIX}{run}-{number}")
}

/// The run that a name belongs to, if it is one of ours.
pub fn run_of(name: &str) -> Option<Id> {
    let (run, number) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let plain = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    run.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_names_are_known_and_no_others() {
        let run = Id::random();
        assert_eq!(run_of(&name(run, 12)), Some(run));
        for stranger in [
            "snapback-",
            "snapback-2026-1",
            "my-snapback",
            "snapshot",
            &format!("snapback-{run}"),
            &format!("snapback-{run}-"),
            &format!("snapback-{run}-1-old"),
            &format!("snapback-{run}-1.bak"),
            &format!("xsnapback-{run}-1"),
        ] {
            assert_eq!(run_of(stranger), None, "{stranger}");
        }
    }
}
