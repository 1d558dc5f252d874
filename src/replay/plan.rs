//! Which backup, which logs, and where in them the replay ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Plan, candidates};
use crate::binlog_archive::{logs, server_name};
use crate::database::mysql::binlog::history::{self, Change};
use crate::finding::Finding;
use crate::record::Record;
use crate::repository::{Backup, Repository};
use crate::sys::signal::Cancel;
use crate::{Error, Result};

/// A point in a server's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// All that is archived.
    End,
    /// What was committed by then.
    Time(jiff::Timestamp),
    /// A transaction: `domain-server-sequence` or `uuid:number`.
    Gtid(String),
    /// An offset in a log.
    At(String, u64),
}

/// The point, and whether what is there belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The point.
    pub until: Until,
    /// What is at the point is left out.
    pub before: bool,
}

/// `end`, a GTID, `FILE:POS`, or a time: RFC 3339, or `2026-11-25 14:03:00` by this host's clock. With `gtid:` in front it is a GTID, whatever it looks like.
///
/// # Errors
/// It is none of these, or a time that this host's clock showed twice or never.
pub fn parse(text: &str) -> Result<Until> {
    parse_in(text, &jiff::tz::TimeZone::system())
}

fn parse_in(text: &str, zone: &jiff::tz::TimeZone) -> Result<Until> {
    let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    if text == "end" {
        return Ok(Until::End);
    }
    if let Some(gtid) = text.strip_prefix("gtid:") {
        return Ok(Until::Gtid(gtid.to_ascii_lowercase()));
    }
    if let Some((file, position)) = text.rsplit_once(':') {
        let is_log = file
            .rsplit_once('.')
            .is_some_and(|(base, number)| !base.is_empty() && digits(number));
        if let (true, Ok(position)) = (is_log, position.parse()) {
            return Ok(Until::At(file.to_owned(), position));
        }
        // `uuid:number`, or with a tag between them.
        let uuid = file.split(':').next().unwrap_or(file);
        if uuid.len() == 36 && uuid.chars().all(|c| c.is_ascii_hexdigit() || c == '-') && digits(position) {
            return Ok(Until::Gtid(text.to_ascii_lowercase()));
        }
    }
    let parts: Vec<&str> = text.split('-').collect();
    let is_date = || parts.iter().map(|part| part.len()).eq([4, 2, 2]);
    if parts.len() == 3 && parts.iter().all(|part| digits(part)) && !is_date() {
        return Ok(Until::Gtid(text.to_owned()));
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(Until::Time(time));
    }
    let Ok(local) = text.parse::<jiff::civil::DateTime>() else {
        return Err(Error::usage(format!(
            "`{text}` is no point in time: a time (2026-11-25T14:03:00Z, '2026-11-25 14:03:00'), FILE:POS (binlog.000007:4711), a GTID, or `end`"
        )));
    };
    let here = zone.to_ambiguous_timestamp(local);
    here.unambiguous().map(Until::Time).map_err(|error| {
        let (earlier, later) = (here.earlier(), here.later());
        Error::usage(match (here.offset(), earlier, later) {
            (jiff::tz::AmbiguousOffset::Fold { .. }, Ok(first), Ok(second)) => {
                format!("this host's clock showed {local} twice: say {first} or {second}")
            }
            (jiff::tz::AmbiguousOffset::Gap { .. }, ..) => {
                format!("this host's clock never showed {local}: it was put forward over it; say a time in UTC, as 2026-11-25T14:03:00Z")
            }
            _ => format!("`{text}` is no time: {error}"),
        })
    })
}

/// Finds the newest backup of a host from which the archived logs lead to the point; or looks at the one that is named. Logs are written into `work`.
///
/// # Errors
/// There is none, and why.
pub fn plan(
    repository: &Repository,
    host: &str,
    id: Option<&str>,
    asked: &Asked,
    work: &Path,
    cancel: &Cancel,
) -> Result<Plan> {
    let mut reasons = Vec::new();
    for (backup, record) in candidates(repository, host, id)? {
        let short = backup.manifest().id.short();
        match from(repository, host, backup, record, asked, work, cancel)? {
            Ok(plan) => return Ok(plan),
            Err(reason) => reasons.push(format!("{short}: {reason}")),
        }
        // All that an older one leads to is earlier than the newest itself.
        if asked.until == Until::End && id.is_none() {
            reasons.push(format!(
                "an older backup, replayed, ends before {short} begins: restore {short} as it is, or name an older one"
            ));
            break;
        }
    }
    if reasons.is_empty() {
        reasons.push("there is no backup with an exact position".to_owned());
    }
    Err(Error::usage(format!(
        "no backup of {host} leads to that point:\n  {}\n`snapback binlog list` says what is archived",
        reasons.join("\n  ")
    )))
}

/// Where the reading of the logs ends.
struct Reading<'a> {
    asked: &'a Asked,
    /// From here on in the first log.
    from: u64,
    file: String,
    position: u64,
    last: Option<u32>,
    changes: u64,
    servers: BTreeSet<u32>,
    ends: BTreeMap<String, String>,
    found: bool,
}

impl Reading<'_> {
    /// Takes one change; `false` where the replay ends.
    fn take(&mut self, change: &Change) -> bool {
        let (whole, after) = match &self.asked.until {
            Until::End => (true, false),
            Until::Time(time) => {
                let at = i64::from(change.time);
                let late = at > time.as_second() || (self.asked.before && at == time.as_second());
                (!late, late)
            }
            Until::Gtid(gtid) => {
                let is = change.gtid.as_ref() == Some(gtid);
                (!is || !self.asked.before, is)
            }
            Until::At(file, position) if change.file == *file => {
                let inside = match self.asked.before {
                    true => change.end > *position,
                    false => change.end > *position || change.start >= *position,
                };
                (!inside, inside)
            }
            Until::At(..) => (true, false),
        };
        if whole {
            (self.file, self.position) = (change.file.clone(), change.end);
            self.last = Some(change.time);
            self.changes += 1;
            self.servers.insert(change.server_id);
            if let Some(gtid) = &change.gtid {
                self.ends.insert(line_of(gtid).to_owned(), gtid.clone());
            }
        }
        self.found = after;
        !after
    }
}

/// What a GTID's number counts in: its domain, or its source (with the tag).
fn line_of(gtid: &str) -> &str {
    let source = gtid.rsplit_once(':').map(|(source, _)| source);
    source.unwrap_or_else(|| gtid.split('-').next().unwrap_or(gtid))
}

type Fit = std::result::Result<Plan, String>;

fn from(
    repository: &Repository,
    host: &str,
    backup: Backup,
    record: Record,
    asked: &Asked,
    work: &Path,
    cancel: &Cancel,
) -> Result<Fit> {
    let (Some(facts), Some(position)) = (record.server.clone(), record.position.clone()) else {
        return Ok(Err("it has no position".to_owned()));
    };
    let time = backup.manifest().time;
    if let Until::Time(until) = asked.until {
        let settled = logs::settled_by(&record, time);
        // The log counts in seconds: before one of them means before its begin.
        let limit = match asked.before {
            true => jiff::Timestamp::from_second(until.as_second()).unwrap_or(until),
            false => until,
        };
        if settled > limit {
            return Ok(Err(format!(
                "it may hold what was committed up to {settled}, which is later"
            )));
        }
    }
    let mut all = logs::of_server(repository, host, &server_name(&facts))?;
    // After RESET a name is used again; who says one now means the newest.
    let named = match &asked.until {
        Until::At(file, _) => all.iter().rposition(|log| log.file == *file),
        _ => None,
    };
    let Some(first) = logs::of_position(&all, &record, time) else {
        let said = match all.iter().any(|log| log.file == position.file) {
            true => "as it was then is not archived: the archived log of that name was begun after the backup (RESET)",
            false => "is not archived",
        };
        return Ok(Err(format!("{} {said}", position.file)));
    };
    all.drain(..first);
    if all[0].end() < position.position {
        return Ok(Err(format!(
            "{} is archived to {} only, it ends at {}",
            position.file,
            all[0].end(),
            position.position
        )));
    }
    if let Until::At(file, at) = &asked.until {
        match named.map(|named| named.checked_sub(first)) {
            None => return Ok(Err(format!("{file} is not archived"))),
            Some(None) => return Ok(Err(format!("{file} was begun before its log, {}", position.file))),
            Some(Some(0)) if *at < position.position => return Ok(Err("it ends behind that point".to_owned())),
            Some(Some(index)) if all[index].end() < *at => {
                return Ok(Err(format!("{file} is archived to {} only", all[index].end())));
            }
            Some(Some(index)) => {
                if all[..index].iter().any(|log| log.file == *file) {
                    return Ok(Err(format!(
                        "{file} was begun anew (RESET) since, and no log leads from this backup to the new one; for a point in the old one say a time or a GTID"
                    )));
                }
                all.truncate(index + 1);
            }
        }
    }
    let mut reading = Reading {
        asked,
        from: position.position,
        file: position.file.clone(),
        position: position.position,
        last: None,
        changes: 0,
        servers: u32::try_from(facts.server_id).into_iter().collect(),
        ends: BTreeMap::new(),
        found: false,
    };
    let mut warnings = Vec::new();
    let mut used = Vec::new();
    for (index, log) in all.iter().enumerate() {
        cancel.check()?;
        if let Some(reason) = index.checked_sub(1).and_then(|before| logs::gap(&all[before], log)) {
            if asked.until != Until::End {
                return Ok(Err(format!("the archive has a gap before that point: {reason}")));
            }
            warnings.push(Finding::warning(
                "binlog-gap",
                format!("the replay ends at a gap: {reason}"),
            ));
            break;
        }
        let path = log.write_into(repository, work)?;
        used.push(log.clone());
        let begin = if index == 0 { reading.from } else { 0 };
        history::read(&path, facts.flavour, &mut |change| {
            change.start < begin || reading.take(&change)
        })?;
        if reading.found {
            break;
        }
    }
    match &asked.until {
        Until::Gtid(gtid) if !reading.found => return Ok(Err(format!("{gtid} is not in the logs behind it"))),
        Until::Time(_) if !reading.found => warnings.push(
            Finding::warning(
                "archive-ends-earlier",
                format!(
                    "nothing in the archive is later than that time: it ends at {}:{}{}, and everything in it is replayed. Whether the server did more until then, it cannot tell",
                    reading.file,
                    reading.position,
                    reading
                        .last
                        .and_then(|last| jiff::Timestamp::from_second(i64::from(last)).ok())
                        .map(|last| format!(", committed at {last}"))
                        .unwrap_or_default()
                ),
            )
            .remedy("if the server, or its logs, can still be reached: `snapback binlog archive --once`, then again"),
        ),
        _ => {}
    }
    // Files that were only looked at.
    let last = used.iter().position(|log| log.file == reading.file).unwrap_or(0);
    used.truncate(last + 1);
    Ok(Ok(Plan {
        backup,
        record,
        logs: used,
        from: reading.from,
        file: reading.file,
        position: reading.position,
        last: reading.last,
        changes: reading.changes,
        warnings,
        work: work.to_owned(),
        servers: reading.servers,
        ends: reading.ends,
        workers: 1,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_told_apart() {
        let of = |text: &str| parse(text).unwrap();
        assert_eq!(of("end"), Until::End);
        assert_eq!(of("binlog.000007:4711"), Until::At("binlog.000007".to_owned(), 4711));
        assert_eq!(of("0-1-77"), Until::Gtid("0-1-77".to_owned()));
        let uuid = "3E11FA47-71CA-11E1-9E33-C80AA9429562:23";
        assert_eq!(of(uuid), Until::Gtid(uuid.to_lowercase()));
        assert_eq!(
            of("2026-11-25T14:03:00Z"),
            Until::Time("2026-11-25T14:03:00Z".parse().unwrap())
        );
        let tagged = "3e11fa47-71ca-11e1-9e33-c80aa9429562:blue:23";
        assert_eq!(of(tagged), Until::Gtid(tagged.to_owned()));
        assert!(matches!(of("2026-11-25 14:03:00"), Until::Time(_)));
        assert!(matches!(of("2026-11-25"), Until::Time(_)));
        assert_eq!(of("2026-1-5"), Until::Gtid("2026-1-5".to_owned()));
        assert_eq!(of("gtid:2026-11-25"), Until::Gtid("2026-11-25".to_owned()));
        assert!(parse("yesterday").is_err());
    }

    #[test]
    fn a_time_that_a_clock_showed_twice_or_never_is_asked_for_again() {
        // As in central Europe, without a database of zones.
        let zone = jiff::tz::TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let of = |text: &str| parse_in(text, &zone).map_err(|error| error.to_string());
        assert_eq!(
            of("2026-11-25 14:03:00"),
            Ok(Until::Time("2026-11-25T13:03:00Z".parse().unwrap()))
        );
        let twice = of("2026-10-25 02:30:00").unwrap_err();
        assert!(
            twice.contains("2026-10-25T00:30:00Z or 2026-10-25T01:30:00Z"),
            "{twice}"
        );
        assert!(of("2026-03-29 02:30:00").unwrap_err().contains("never showed"));
    }

    fn change(file: &str, start: u64, end: u64, time: u32, gtid: &str) -> Change {
        Change {
            file: file.to_owned(),
            start,
            end,
            time,
            gtid: Some(gtid.to_owned()),
            ..Change::default()
        }
    }

    /// The position up to which three changes are taken.
    fn end(until: Until, before: bool) -> (u64, bool) {
        let asked = Asked { until, before };
        let mut reading = Reading {
            asked: &asked,
            from: 0,
            file: String::new(),
            position: 0,
            last: None,
            changes: 0,
            servers: BTreeSet::new(),
            ends: BTreeMap::new(),
            found: false,
        };
        let changes = [
            change("b.1", 100, 200, 10, "0-1-1"),
            change("b.1", 200, 300, 11, "0-1-2"),
            change("b.1", 300, 400, 12, "0-1-3"),
        ];
        for change in &changes {
            if !reading.take(change) {
                break;
            }
        }
        (reading.position, reading.found)
    }

    #[test]
    fn no_part_of_a_transaction_and_nothing_behind_the_point() {
        let at = |position| Until::At("b.1".to_owned(), position);
        assert_eq!(end(at(300), false), (300, true));
        assert_eq!(end(at(250), false), (200, true));
        assert_eq!(end(at(200), true), (200, true));
        assert_eq!(end(at(299), true), (200, true));
        assert_eq!(end(Until::Gtid("0-1-2".to_owned()), false), (300, true));
        assert_eq!(end(Until::Gtid("0-1-2".to_owned()), true), (200, true));
        assert_eq!(end(Until::End, false), (400, false));
        let time = |second| Until::Time(jiff::Timestamp::from_second(second).unwrap());
        assert_eq!(end(time(11), false), (300, true));
        assert_eq!(end(time(11), true), (200, true));
        assert_eq!(end(time(50), false), (400, false));
    }
}
