//! The checksums that a backup has, against what the booted copy gives.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Checksums, Running};
use crate::Result;
use crate::database::mysql::scratch::Scratch;
use crate::database::mysql::scratch::check::{Checked, Table, Verdict};
use crate::database::mysql::scratch::machine;
use crate::database::mysql::scratch::sums::{self, Sum};
use crate::monitor::Work;
use crate::record::ChecksumRecord;

/// Tables that a reason names at most.
const NAMED: usize = 5;

impl Running<'_> {
    /// Reads every table that has a recorded checksum, and puts into the checks what does not agree.
    pub(super) fn compare(
        &self,
        recorded: &ChecksumRecord,
        checked: &mut Vec<Checked>,
        server: &mut Scratch,
        until: Instant,
    ) -> Result<Checksums> {
        self.monitor.phase("checksum");
        let found = present(recorded, checked);
        // A damaged table may end the server, and is named already.
        let readable = found.iter().filter(|one| one.verdict < Verdict::Errors);
        let tables: Vec<Table> = readable.map(|one| one.table.clone()).collect();
        self.monitor.begin(Work {
            name: "comparing checksums",
            bytes: 0,
            items: tables.len() as u64,
        });
        let read = match server.lives() {
            true => sums::read(server, tables, self.connections(), until, self.monitor, self.cancel),
            false => Ok(sums::Sums::default()),
        };
        self.monitor.end();
        let read = read?;
        let reason = match read.late {
            true => "the time for all checks was over (scratch.check_limit)".to_owned(),
            false => format!("the server ended: {}", server.last_words()),
        };
        // Whatever ended the server may be in one of these, unless the machine did.
        let suspects = read.suspects.into_iter().map(|table| (table, Err(reason.clone())));
        let (suspects, mut left) = match server.machine_trouble() {
            None => (suspects.collect(), Vec::new()),
            Some(_) => (Vec::new(), suspects.map(|(table, _)| table).collect()),
        };
        left.extend(read.left);
        let read = read.sums.into_iter().chain(suspects).collect();
        Ok(judge(
            recorded,
            checked,
            read,
            &left
                .into_iter()
                .map(|table| (table, reason.clone()))
                .collect::<Vec<_>>(),
        ))
    }
}

/// The tables of the copy that have a recorded checksum.
fn present(recorded: &ChecksumRecord, checked: &[Checked]) -> Vec<Checked> {
    let has = |table: &Table| recorded.tables.get(&table.schema)?.get(&table.name);
    let all = checked.iter().filter(|one| has(&one.table).is_some());
    all.cloned().collect()
}

/// Compares; a table that does not agree gets a verdict that says so. Of those that are `left` nothing is known, and why.
fn judge(
    recorded: &ChecksumRecord,
    checked: &mut Vec<Checked>,
    read: Vec<(Table, Sum)>,
    left: &[(Table, String)],
) -> Checksums {
    let key = |table: &Table| (table.schema.clone(), table.name.clone());
    let at: BTreeMap<_, usize> = checked
        .iter()
        .enumerate()
        .map(|(at, one)| (key(&one.table), at))
        .collect();
    let read: BTreeMap<_, Sum> = read.into_iter().map(|(table, sum)| (key(&table), sum)).collect();
    let mut result = Checksums::default();
    for (schema, name, expected) in every(recorded) {
        result.recorded += 1;
        let key = (schema.to_owned(), name.to_owned());
        let (verdict, said) = match (at.contains_key(&key), read.get(&key)) {
            (true, Some(Ok(sum))) if *sum == expected => {
                result.agree += 1;
                continue;
            }
            (true, Some(Ok(sum))) => {
                result.differ += 1;
                let said = format!("its checksum is {sum}, and the backup recorded {expected}");
                (Verdict::Errors, said)
            }
            (true, Some(Err(reason))) => {
                result.unread += 1;
                let verdict = match machine::trouble(reason) {
                    Some(_) => Verdict::Unchecked,
                    None => Verdict::Errors,
                };
                (verdict, format!("its checksum cannot be read: {reason}"))
            }
            (true, None) => {
                result.unread += 1;
                let why = left
                    .iter()
                    .find(|(table, _)| (&*table.schema, &*table.name) == (schema, name));
                let why = why.map(|(_, reason)| format!(": {reason}")).unwrap_or_default();
                (Verdict::Unchecked, format!("its checksum was not read{why}"))
            }
            (false, _) => {
                result.missing += 1;
                let said = "it is missing, and the backup has a checksum of it".to_owned();
                (Verdict::Errors, said)
            }
        };
        if result.named.len() < NAMED {
            result.named.push(format!("{schema}.{name}: {said}"));
        }
        match at.get(&key).and_then(|at| checked.get_mut(*at)) {
            // A damaged one stays that.
            Some(one) => {
                if one.verdict < Verdict::Errors {
                    one.verdict = verdict;
                }
                one.messages.push(said);
            }
            None => checked.push(Checked {
                table: Table {
                    schema: key.0,
                    name: key.1,
                    engine: "?".to_owned(),
                },
                verdict,
                messages: vec![said],
            }),
        }
    }
    result
}

fn every(recorded: &ChecksumRecord) -> impl Iterator<Item = (&str, &str, u64)> {
    recorded.tables.iter().flat_map(|(schema, tables)| {
        tables
            .iter()
            .map(move |(name, sum)| (schema.as_str(), name.as_str(), *sum))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_or_is_missing_or_cannot_be_read_is_named() {
        let names = ["same", "other", "gone", "bad", "broken", "late"];
        let recorded = ChecksumRecord {
            tables: BTreeMap::from([(
                "s".to_owned(),
                names.iter().map(|name| ((*name).to_owned(), 7)).collect(),
            )]),
            ..ChecksumRecord::default()
        };
        let table = |name: &str| Table {
            schema: "s".to_owned(),
            name: name.to_owned(),
            engine: "InnoDB".to_owned(),
        };
        let there = [
            ("same", Verdict::Ok),
            ("other", Verdict::Ok),
            ("bad", Verdict::Ok),
            ("broken", Verdict::Errors),
            ("late", Verdict::Ok),
            ("further", Verdict::Ok),
        ];
        let one = |(name, verdict): &(&str, Verdict)| Checked {
            table: table(name),
            verdict: *verdict,
            messages: Vec::new(),
        };
        let mut checked: Vec<Checked> = there.iter().map(one).collect();
        let read = vec![
            (table("same"), Ok(7)),
            (table("other"), Ok(8)),
            (table("bad"), Err("corrupt".to_owned())),
            (table("further"), Ok(1)),
        ];
        let result = judge(
            &recorded,
            &mut checked,
            read,
            &[(table("late"), "it was late".to_owned())],
        );
        assert_eq!(
            (
                result.recorded,
                result.agree,
                result.differ,
                result.missing,
                result.unread
            ),
            (6, 1, 1, 1, 3)
        );
        assert_eq!(result.named.len(), NAMED);
        let verdict = |name: &str| checked.iter().find(|one| one.table.name == name).unwrap().verdict;
        assert_eq!((verdict("same"), verdict("further")), (Verdict::Ok, Verdict::Ok));
        assert_eq!((verdict("other"), verdict("gone")), (Verdict::Errors, Verdict::Errors));
        // What cannot be read is damaged; of what nobody came to nothing is known.
        assert_eq!((verdict("bad"), verdict("late")), (Verdict::Errors, Verdict::Unchecked));
        assert_eq!(verdict("broken"), Verdict::Errors);
    }
}
