//! The checks of one drill: over several connections, and over as many servers as it takes.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Running, is_verdict};
use crate::Result;
use crate::database::Error;
use crate::database::mysql::scratch::check::{self, Checked, Round, Table, Verdict};
use crate::database::mysql::scratch::{Place, Scratch};
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
            let words = server.last_words();
            if alone {
                checked.extend(round.suspects.drain(..).map(|table| guilty(table, &words)));
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
                Err(error) if is_verdict(&error) => {
                    let reason = format!("the server ended while tables were checked ({words}), and: {error}");
                    checked.extend(suspects.drain(..).map(|table| guilty(table, &words)));
                    return Ok(give_up(checked, Round::default(), left, &reason));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// A table whose check ended the server.
fn guilty(table: Table, words: &str) -> Checked {
    Checked {
        table,
        verdict: Verdict::Errors,
        messages: vec![format!("the server ended while it was checked: {words}")],
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
