//! Where in the archive a backup's position is: by what its log is known by, not by its name or a time.

use super::lines::History;
use super::logs::{self, Log};
use super::resume;
use crate::Result;
use crate::database::mysql::binlog::state::{self, State};
use crate::database::mysql::binlog::trace;
use crate::database::{Flavour, Position};
use crate::record::Record;
use crate::repository::Repository;

/// The logs that a backup's position is in, or why there is none. There are several where servers went on from it in different ways without a restart (a machine was
/// cloned).
pub type Found = std::result::Result<Vec<usize>, String>;

/// Which of a server's logs a backup's position is in. `time` is its manifest's.
///
/// The backup knows the trace of its log up to the position. A backup of before 0.2, or of a log outside of its snapshots, does not: then an event must end at the
/// position, with MariaDB at the same GTIDs, and of several such logs it is the one that was begun by then, if that is one.
///
/// # Errors
/// A segment cannot be read.
pub fn log_of(repository: &Repository, history: &History, record: &Record, time: jiff::Timestamp) -> Result<Found> {
    let (Some(position), Some(facts)) = (&record.position, &record.server) else {
        return Ok(Err("it has no position".to_owned()));
    };
    let named = |index: &usize| history.logs[*index].log.file == position.file;
    let named: Vec<usize> = (0..history.logs.len()).filter(named).collect();
    let Some(furthest) = named.iter().map(|index| history.logs[*index].log.end()).max() else {
        return Ok(Err(format!("{} is not archived", position.file)));
    };
    if furthest < position.position {
        return Ok(Err(format!(
            "{} is archived to {furthest} only, it ends at {}",
            position.file, position.position
        )));
    }
    let mut fit = Vec::new();
    for index in named {
        let log = &history.logs[index].log;
        if log.end() >= position.position && fits(repository, log, record, facts.flavour, position)? {
            fit.push(index);
        }
    }
    if fit.len() > 1 && record.log_trace.is_none() {
        let until = logs::settled_by(record, time).as_second();
        fit.retain(|index| i64::from(history.logs[*index].log.created) <= until);
    }
    Ok(match fit.as_slice() {
        [one] => Ok(vec![*one]),
        [] => Err(format!(
            "{} as it was then is not archived: what is archived under that name is another log (RESET, or another server)",
            position.file
        )),
        several if record.log_trace.is_some() => Ok(several.to_vec()),
        several => {
            let ids: Vec<String> = several.iter().map(|index| history.logs[*index].log.id()).collect();
            Err(format!(
                "it does not tell which of these logs its position is in: {}",
                ids.join(", ")
            ))
        }
    })
}

fn fits(repository: &Repository, log: &Log, record: &Record, flavour: Flavour, position: &Position) -> Result<bool> {
    let upto = position.position;
    match &record.log_trace {
        Some(known) => {
            let trace = resume::trace_of(repository, log, upto)?;
            Ok(trace.is_some_and(|trace| trace.text() == *known))
        }
        None => {
            let mut state = State::new(flavour);
            let at = resume::each_event(repository, log, upto, &mut |event| state.take(event))?;
            // `gtid_executed` of MySQL may have more than its logs.
            let compared = flavour == Flavour::MariaDb && position.gtid.is_some();
            let same = |gtids: String| sorted(&gtids) == sorted(position.gtid.as_deref().unwrap_or_default());
            Ok(at == upto && (!compared || state.gtids().is_none_or(same)))
        }
    }
}

/// Whether an archived log goes on where another ends, by the GTIDs that its beginning lists.
///
/// # Errors
/// A segment cannot be read.
pub fn joins(repository: &Repository, flavour: Flavour, before: &Log, log: &Log) -> Result<bool> {
    let mut list = State::new(flavour);
    let bytes = log.beginning(repository, 1)?;
    for event in state::events(bytes.get(4..).unwrap_or_default()).take(super::round::HEAD_EVENTS) {
        list.take(event);
        if state::header(event).is_some_and(|(kind, ..)| trace::is_list(kind)) {
            break;
        }
    }
    resume::joins(repository, flavour, before, list.gtids().as_deref())
}

fn sorted(gtids: &str) -> Vec<&str> {
    let mut all: Vec<&str> = gtids.split(',').map(str::trim).collect();
    all.sort_unstable();
    all
}
