//! What a drill found, as it is kept in the repository.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::database::mysql::scratch::Recovery;
use crate::database::mysql::scratch::check::{Checked, Verdict as TableVerdict};
use crate::database::{Flavour, Position};

/// The most tables that are named in a verdict.
const NAMED: usize = 100;

/// The outcome in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It restores, boots, and every table is good.
    Ok,
    /// The same, but there is something that a person must look at.
    Warnings,
    /// Nobody knows: the machine failed, or lacks what the data need, before all was looked at. It says nothing against the backup.
    Inconclusive,
    /// The data are damaged.
    Failed,
}

/// How far a failed drill came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// The stored data is damaged.
    Restore,
    /// The server does not come up on it.
    Boot,
    /// It came up at another position than the recorded one.
    Position,
    /// Tables are damaged.
    Check,
    /// It did not shut down in order.
    Shutdown,
}

/// The verdict on one backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// In one word.
    pub result: Outcome,
    /// The first step that failed, or did not come to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<Step>,
    /// Why it failed, or what to look at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// The tool's version.
    pub tool: String,
    /// The host that the drill ran on.
    pub host: String,
    /// The server that booted it.
    pub server: BootedBy,
    /// How long each step took.
    pub seconds: Seconds,
    /// Bytes that were restored.
    pub bytes: u64,
    /// What its log says of the recovery.
    #[serde(default)]
    pub recovery: Recovery,
    /// The recorded position and the one that was found, where both can be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Compared>,
    /// How the tables compare with the checksums that the backup has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums: Option<Checksums>,
    /// The tables.
    #[serde(default)]
    pub tables: Tables,
}

/// Tables against the checksums that were recorded with the backup. Those that do not agree are among the named tables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksums {
    /// Tables that have a recorded one.
    pub recorded: u64,
    /// As recorded.
    pub agree: u64,
    /// Other rows than were recorded.
    pub differ: u64,
    /// Not there.
    pub missing: u64,
    /// Not read: damaged by their checks, or the time was over, or the server ended.
    pub unread: u64,
    /// The first few of all that do not agree, as `SCHEMA.TABLE: why`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub named: Vec<String>,
}

/// A server program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BootedBy {
    /// MariaDB or MySQL.
    pub flavour: Flavour,
    /// As it says it.
    pub version: String,
    /// The program.
    pub program: std::path::PathBuf,
}

/// Wall time of each step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Restoring.
    pub restore: f64,
    /// Until the server answered.
    pub boot: f64,
    /// All checks.
    pub check: f64,
    /// Until it had shut down.
    pub shutdown: f64,
}

/// Two positions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// In the backup's record.
    pub recorded: Position,
    /// After the recovery of the copy.
    pub found: Position,
    /// Whether they are the same.
    pub agrees: bool,
    /// Whether the record promised it.
    pub promised: bool,
}

/// Tables by engine, and the bad ones by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// All that were looked at.
    pub checked: u64,
    /// Counts, by engine (`VIEW` for views).
    pub engines: BTreeMap<String, Counts>,
    /// Those that are not plainly good.
    pub named: Vec<Named>,
    /// Further ones that are not named.
    pub more: u64,
}

/// Counts of one engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Good.
    pub ok: u64,
    /// Read, but its engine has no check.
    pub unsupported: u64,
    /// To be looked at.
    pub warnings: u64,
    /// Damaged.
    pub errors: u64,
    /// Not checked.
    pub unchecked: u64,
}

/// A table that is not plainly good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// `schema.name`.
    pub table: String,
    /// Its engine.
    pub engine: String,
    /// What was found.
    pub verdict: TableVerdict,
    /// In the server's words.
    pub messages: Vec<String>,
}

impl Tables {
    /// Sums up.
    pub fn of(mut checked: Vec<Checked>) -> Tables {
        // The worst are named first, whatever there is room for.
        checked.sort_by(|one, two| {
            let key = |checked: &Checked| (std::cmp::Reverse(checked.verdict), checked.table.full_name());
            key(one).cmp(&key(two))
        });
        let mut tables = Tables {
            checked: checked.len() as u64,
            ..Tables::default()
        };
        for one in checked {
            let counts = tables.engines.entry(one.table.engine.clone()).or_default();
            match one.verdict {
                TableVerdict::Ok => counts.ok += 1,
                TableVerdict::Unsupported => counts.unsupported += 1,
                TableVerdict::Warnings => counts.warnings += 1,
                TableVerdict::Errors => counts.errors += 1,
                TableVerdict::Unchecked => counts.unchecked += 1,
            }
            if one.verdict < TableVerdict::Warnings {
                continue;
            }
            if tables.named.len() == NAMED {
                tables.more += 1;
                continue;
            }
            tables.named.push(Named {
                table: one.table.full_name(),
                engine: one.table.engine,
                verdict: one.verdict,
                messages: one.messages,
            });
        }
        tables
    }

    /// How many have this verdict.
    pub fn count(&self, of: impl Fn(&Counts) -> u64) -> u64 {
        self.engines.values().map(of).sum()
    }
}

impl Verdict {
    /// A failure of a step; the first one is kept as the step.
    pub fn fail(&mut self, step: Step, reason: impl Into<String>) {
        self.result = Outcome::Failed;
        self.failed_at = self.failed_at.or(Some(step));
        self.reasons.push(reason.into());
    }

    /// A step came to no end, and the data are not to blame.
    pub fn doubt(&mut self, step: Step, reason: impl Into<String>) {
        self.result = self.result.max(Outcome::Inconclusive);
        self.failed_at = self.failed_at.or(Some(step));
        self.reasons.push(reason.into());
    }

    /// Something to look at.
    pub fn warn(&mut self, reason: impl Into<String>) {
        self.result = self.result.max(Outcome::Warnings);
        self.reasons.push(reason.into());
    }

    /// Takes the checks' results.
    pub fn judge(&mut self, checked: Vec<Checked>) {
        self.tables = Tables::of(checked);
        let (errors, unchecked) = (self.tables.count(|c| c.errors), self.tables.count(|c| c.unchecked));
        let warnings = self.tables.count(|c| c.warnings);
        if errors > 0 {
            self.fail(Step::Check, format!("{} damaged", tables(errors)));
        }
        if unchecked > 0 {
            self.doubt(Step::Check, format!("{} not checked", tables(unchecked)));
        }
        if warnings > 0 {
            self.warn(format!("{} with warnings", tables(warnings)));
        }
    }

    /// Takes what the checksums gave; the tables themselves are judged already.
    pub fn take(&mut self, compared: Checksums) {
        let wrong = compared.recorded - compared.agree;
        // What was not read is among the tables, as damaged or as not checked.
        if compared.differ + compared.missing == 0 && wrong > 0 {
            self.doubt(
                Step::Check,
                format!(
                    "the checksums of {} could not be read: {}",
                    tables(wrong),
                    compared.named.join(", ")
                ),
            );
        } else if wrong > 0 {
            let more = match wrong.saturating_sub(compared.named.len() as u64) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            self.fail(
                Step::Check,
                format!(
                    "{} not as the backup's checksums say: {}{more}",
                    tables(wrong),
                    compared.named.join(", ")
                ),
            );
        }
        self.checksums = Some(compared);
    }
}

fn tables(count: u64) -> String {
    match count {
        1 => "1 table".to_owned(),
        many => format!("{many} tables"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::database::mysql::scratch::check::Table;

    fn checked(name: &str, engine: &str, verdict: TableVerdict) -> Checked {
        Checked {
            table: Table {
                schema: "s".to_owned(),
                name: name.to_owned(),
                engine: engine.to_owned(),
            },
            verdict,
            messages: Vec::new(),
        }
    }

    pub fn blank() -> Verdict {
        serde_json::from_value(serde_json::json!({
            "result": "ok", "tool": "0", "host": "h", "bytes": 0,
            "server": {"flavour": "mariadb", "version": "10.11.14", "program": "/x"},
            "seconds": {"restore": 0.0, "boot": 0.0, "check": 0.0, "shutdown": 0.0},
        }))
        .unwrap()
    }

    #[test]
    fn what_nobody_looked_at_is_no_damage_and_damage_stays_damage() {
        let mut verdict = blank();
        verdict.judge(vec![checked("late", "InnoDB", TableVerdict::Unchecked)]);
        assert_eq!(verdict.result, Outcome::Inconclusive);
        verdict.warn("something");
        assert_eq!(verdict.result, Outcome::Inconclusive);
        verdict.judge(vec![
            checked("late", "InnoDB", TableVerdict::Unchecked),
            checked("bad", "InnoDB", TableVerdict::Errors),
        ]);
        assert_eq!(verdict.result, Outcome::Failed);
        verdict.doubt(Step::Shutdown, "the time was over");
        assert_eq!(
            (verdict.result, verdict.failed_at),
            (Outcome::Failed, Some(Step::Check))
        );
        assert_eq!(serde_json::to_value(Outcome::Inconclusive).unwrap(), "inconclusive");
    }

    #[test]
    fn the_worst_are_named_first_and_the_rest_is_counted() {
        let mut all: Vec<Checked> = (0..150)
            .map(|number| checked(&format!("w{number:03}"), "MyISAM", TableVerdict::Warnings))
            .collect();
        all.push(checked("good", "InnoDB", TableVerdict::Ok));
        all.push(checked("bad", "InnoDB", TableVerdict::Errors));
        let tables = Tables::of(all);
        assert_eq!((tables.checked, tables.named.len(), tables.more), (152, NAMED, 51));
        assert_eq!(tables.named[0].table, "s.bad");
        let innodb = tables.engines["InnoDB"];
        assert_eq!((innodb.ok, innodb.errors, tables.count(|c| c.warnings)), (1, 1, 150));
    }
}
