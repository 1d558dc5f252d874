//! The checks of one drill: over several connections, and over as many servers as it takes.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Running;
use crate::Result;
use crate::database::Error;
use crate::database::mysql::scratch::check::{self, Checked, Round, Table, Verdict};
use crate::database::mysql::scratch::{Place, Removed, Scratch};
use crate::monitor::Work;

/// A server that ends more often than this while tables are checked is given up.
const MOST_ENDS: usize = 20;

/// How long the server may be silent when it is asked for the list of its tables.
const LISTING: Duration = Duration::from_secs(3600);

impl Running<'_> {
    /// Checks all tables; where a check ends the server, finds out which one it was and goes on with the others on a new one.
    pub(super) fn check(
        &self,
        server: &mut Scratch,
        place: &Place<'_>,
        space: &Path,
        until: Instant,
    ) -> Result<Vec<Checked>> {
        self.monitor.phase("check");
        let mut session = server.session(LISTING).map_err(crate::Error::from)?;
        let all = check::tables(&mut session).map_err(crate::Error::from)?;
        drop(session);
        self.monitor.begin(Work {
            name: "checking tables",
            bytes: 0,
            items: all.len() as u64,
        });
        let (mut checked, mut left, mut suspects) = (Vec::new(), all, Vec::new());
        let mut ends = 0;
        loop {
            // Those that may have ended the last server are checked one at a time.
            let (tables, connections) = match suspects.is_empty() {
                true => (std::mem::take(&mut left), self.connections()),
                false => (std::mem::take(&mut suspects), 1),
            };
            if tables.is_empty() {
                return Ok(checked);
            }
            let alone = connections == 1;
            let mut round = check::run(server, tables, connections, until, self.monitor, self.cancel)?;
            checked.append(&mut round.checked);
            if round.late {
                let reason = "the time for all checks was over (scratch.check_limit)";
                return Ok(give_up(checked, round, left, reason));
            }
            if round.suspects.is_empty() && round.left.is_empty() {
                continue;
            }
            let (words, trouble) = (server.last_words(), server.machine_trouble());
            if alone {
                let suspects = round.suspects.drain(..);
                checked.extend(suspects.map(|table| guilty(table, &words, trouble)));
            }
            ends += 1;
            suspects.append(&mut round.suspects);
            left.append(&mut round.left);
            if suspects.is_empty() && left.is_empty() {
                return Ok(checked);
            }
            // Two servers never share a datadir.
            server.kill();
            let again = match ends <= MOST_ENDS {
                true => self.boot(place, space),
                false => Err(Error::Unsupported("it ended too often".to_owned()).into()),
            };
            match again {
                Ok(new) => *server = new,
                Err(error @ crate::Error::Database(Error::Sys(_))) => return Err(error),
                Err(error @ crate::Error::Database(_)) => {
                    let reason = format!("the server ended while tables were checked ({words}), and: {error}");
                    checked.extend(suspects.drain(..).map(|table| guilty(table, &words, trouble)));
                    return Ok(give_up(checked, Round::default(), left, &reason));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// A table whose check ended the server, unless the machine did.
fn guilty(table: Table, words: &str, trouble: Option<&str>) -> Checked {
    let said = format!("the server ended while it was checked: {words}");
    let (verdict, said) = match trouble {
        None => (Verdict::Errors, said),
        Some(trouble) => (Verdict::Unchecked, format!("{said}; {trouble}")),
    };
    Checked {
        table,
        verdict,
        messages: vec![said],
    }
}

/// A table whose file was a link to nothing in the backup is not damaged: the server says so of its file by name.
pub(super) fn excuse(checked: &mut [Checked], removed: &[Removed]) {
    let stems = removed
        .iter()
        .map(|link| link.link.with_extension("").display().to_string());
    let stems: Vec<String> = stems.collect();
    let is_of = |text: &String| {
        let named = |stem: &String| text.contains(&format!("'./{stem}.")) || text.contains(&format!("'{stem}'"));
        stems.iter().any(named)
    };
    for one in checked.iter_mut().filter(|one| one.verdict == Verdict::Errors) {
        if one.messages.iter().any(is_of) {
            one.verdict = Verdict::Warnings;
            one.messages
                .push("a link that leads to what is not in the backup".to_owned());
        }
    }
}

fn give_up(mut checked: Vec<Checked>, round: Round, left: Vec<Table>, reason: &str) -> Vec<Checked> {
    let all = round.suspects.into_iter().chain(round.left).chain(left);
    checked.extend(all.map(|table| Checked {
        table,
        verdict: Verdict::Unchecked,
        messages: vec![reason.to_owned()],
    }));
    checked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, said: &str) -> Checked {
        Checked {
            table: Table {
                schema: "shop".to_owned(),
                name: name.to_owned(),
                engine: "?".to_owned(),
            },
            verdict: Verdict::Errors,
            messages: vec![said.to_owned()],
        }
    }

    #[test]
    fn a_table_behind_a_link_to_nothing_is_excused_and_no_other() {
        let removed = [Removed {
            link: "shop/m.MYD".into(),
            target: "/nowhere/m.MYD".into(),
        }];
        let mut checked = [
            named(
                "m",
                "Can't find file: './shop/m.MYI' (errno: 2 \"No such file or directory\")",
            ),
            named(
                "m2",
                "Can't find file: './shop/m2.MYI' (errno: 2 \"No such file or directory\")",
            ),
            named("x", "Corrupt"),
        ];
        excuse(&mut checked, &removed);
        let verdicts = checked.map(|one| one.verdict);
        assert_eq!(verdicts, [Verdict::Warnings, Verdict::Errors, Verdict::Errors]);
    }

    #[test]
    fn a_server_that_the_machine_ended_accuses_no_table() {
        let table = || named("t", "").table;
        assert_eq!(guilty(table(), "", None).verdict, Verdict::Errors);
        assert_eq!(guilty(table(), "", Some("it was killed")).verdict, Verdict::Unchecked);
    }
}
