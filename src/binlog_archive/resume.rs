//! Which archived log a server's file is, by their events: where both begin, and the last event that is archived. Names, numbers and times only say where to look.

use super::Archive;
use super::logs::{self, Log};
use crate::database::mysql::binlog::state::{self, State};
use crate::database::mysql::binlog::trace::{self, Trace};
use crate::database::mysql::stream::{Item, MAGIC, Stream};
use crate::database::{self, Flavour};
use crate::repository::Repository;
use crate::{Error, Result};

/// As much of two logs' beginnings is compared, in bytes.
const BEGINNING: u64 = 64 << 10;

/// Up to where a server's file and an archived log are the same.
#[derive(Debug, Clone)]
pub(super) struct Match {
    /// The archived log.
    pub log: Log,
    /// The offset up to which both agree.
    pub at: u64,
    /// The event that ends there: where it begins, and its trace.
    pub last: (u64, Trace),
}

/// A file of the server, as it lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerFile {
    pub name: String,
    /// In bytes of events: without the header that MySQL's encryption adds.
    pub size: u64,
}

impl Archive<'_> {
    /// The newest of the server's files that is archived, or begun to be: its place in the list, and how far both agree.
    pub(super) fn newest_match(&self, files: &[ServerFile], archived: &[Log]) -> Result<Option<(usize, Match)>> {
        for (index, file) in files.iter().enumerate().rev() {
            let mut named: Vec<&Log> = archived.iter().filter(|log| log.file == file.name).collect();
            named.sort_by_key(|log| std::cmp::Reverse(log.end()));
            let mut best: Option<Match> = None;
            for log in named {
                let found = self.compare(file, log)?;
                best = [best, found].into_iter().flatten().max_by_key(|found| found.at);
            }
            if let Some(found) = best {
                return Ok(Some((index, found)));
            }
        }
        Ok(None)
    }

    /// Whether the server's file is this log, as far as both go.
    pub(super) fn compare(&self, file: &ServerFile, log: &Log) -> Result<Option<Match>> {
        let Some((begin, last, end)) = last_event(self.repository, log, log.end().min(file.size))? else {
            return Ok(None);
        };
        let bytes = log.beginning(self.repository, end.min(BEGINNING))?;
        let (mut trace, mut upto) = (Trace::new(), MAGIC.len() as u64);
        for event in state::events(bytes.get(MAGIC.len()..).unwrap_or_default()) {
            if upto + event.len() as u64 > end.min(BEGINNING) && upto > MAGIC.len() as u64 {
                break;
            }
            trace.take(event);
            upto += event.len() as u64;
        }
        let found = Match {
            log: log.clone(),
            at: end,
            last: (begin, last),
        };
        let same = self.trace_on_server(&file.name, upto)?.as_ref() == Some(&trace);
        Ok((same && self.still(&found)?).then_some(found))
    }

    /// Whether the server's file of that name still has the event that the match ends with.
    pub(super) fn still(&self, found: &Match) -> Result<bool> {
        let (begin, last) = &found.last;
        let Some(mut stream) = self.readable(&found.log.file, *begin)? else {
            return Ok(false);
        };
        loop {
            match passing(stream.read())? {
                Some(Item::Created(created)) if created != found.log.created => return Ok(false),
                Some(Item::Event(bytes)) => {
                    return Ok(state::events(&bytes)
                        .next()
                        .is_some_and(|event| Trace::of_one(event) == *last));
                }
                Some(Item::Created(_)) => {}
                Some(Item::File(_)) | None => return Ok(false),
            }
        }
    }

    fn trace_on_server(&self, file: &str, upto: u64) -> Result<Option<Trace>> {
        let Some(mut stream) = self.readable(file, MAGIC.len() as u64)? else {
            return Ok(None);
        };
        let (mut trace, mut at) = (Trace::new(), MAGIC.len() as u64);
        while let Some(item) = passing(stream.read())? {
            let bytes = match item {
                Item::Event(bytes) => bytes,
                Item::Created(_) => continue,
                Item::File(_) => return Ok(None),
            };
            for event in state::events(&bytes) {
                trace.take(event);
                at += event.len() as u64;
                if at >= upto {
                    return Ok((at == upto).then_some(trace));
                }
            }
        }
        Ok(None)
    }

    /// The GTIDs before a file of the server, as its beginning says; `None` when that cannot be read.
    pub(super) fn gtids_before(&self, file: &str) -> Result<Option<String>> {
        let Some(mut stream) = self.readable(file, MAGIC.len() as u64)? else {
            return Ok(None);
        };
        let mut state = State::new(self.flavour);
        let mut events = 0;
        while events < super::round::HEAD_EVENTS {
            match passing(stream.read())? {
                Some(Item::Created(_)) => {}
                Some(Item::Event(bytes)) => {
                    state.take(&bytes);
                    events += 1;
                    if state::header(&bytes).is_some_and(|(kind, ..)| trace::is_list(kind)) {
                        break;
                    }
                }
                Some(Item::File(_)) | None => break,
            }
        }
        Ok(state.gtids())
    }

    /// A dump from an offset; `None` where the server has no such file, or none that can be read there.
    fn readable(&self, file: &str, at: u64) -> Result<Option<Stream>> {
        let opened = Stream::open(&self.options, self.flavour, self.replica_id, file, at);
        match opened {
            Err(error) if is_unreadable(&error) => Ok(None),
            opened => Ok(Some(opened?)),
        }
    }
}

/// The server cannot read its own log there.
pub(super) fn is_unreadable(error: &database::Error) -> bool {
    // ER_MASTER_FATAL_ERROR_READING_BINLOG; below 100 are errors of files (mysys_err.h: EE_READ, EE_FILENOTFOUND).
    matches!(
        error,
        database::Error::Statement {
            code: 1236 | 1..100,
            ..
        }
    )
}

fn passing(item: database::Result<Option<Item>>) -> Result<Option<Item>> {
    match item {
        Err(error) if is_unreadable(&error) => Ok(None),
        // An event that does not join the one before it: nobody begins there.
        Err(database::Error::Unsupported(_)) => Ok(None),
        item => item.map_err(Error::from),
    }
}

/// The last event of an archived log that ends at `limit` or before it: its begin, trace and end.
fn last_event(repository: &Repository, log: &Log, limit: u64) -> Result<Option<(u64, Trace, u64)>> {
    let cover = log.cover();
    let Some(segment) = cover
        .iter()
        .find(|segment| segment.to >= limit && segment.to > segment.from)
    else {
        return Ok(None);
    };
    let bytes = repository.read_binlog(segment)?;
    let skip = if segment.from == 0 { MAGIC.len() } else { 0 };
    let mut at = segment.from + skip as u64;
    let mut last = None;
    for event in state::events(bytes.get(skip..).unwrap_or_default()) {
        let end = at + event.len() as u64;
        if end > limit {
            break;
        }
        last = Some((at, Trace::of_one(event), end));
        at = end;
    }
    Ok(last)
}

/// Every event of an archived log up to an offset, in order; a segment is held in memory at a time. Gives the end of the last one.
pub(super) fn each_event(repository: &Repository, log: &Log, upto: u64, each: &mut dyn FnMut(&[u8])) -> Result<u64> {
    each_between(repository, log, (MAGIC.len() as u64, upto), each)
}

/// The same from an offset on where a segment ends.
fn each_between(
    repository: &Repository,
    log: &Log,
    (from, upto): (u64, u64),
    each: &mut dyn FnMut(&[u8]),
) -> Result<u64> {
    let mut at = from;
    for segment in log.cover().into_iter().filter(|segment| segment.to > from) {
        if segment.from >= upto {
            break;
        }
        let bytes = repository.read_binlog(segment)?;
        let skip = usize::try_from(at.saturating_sub(segment.from)).unwrap_or(usize::MAX);
        for event in state::events(bytes.get(skip..).unwrap_or_default()) {
            if at + event.len() as u64 > upto {
                break;
            }
            each(event);
            at += event.len() as u64;
        }
    }
    Ok(at)
}

/// The trace of an archived log at an offset; `None` when no event ends there. The headers of the segments say most of it.
pub(super) fn trace_of(repository: &Repository, log: &Log, at: u64) -> Result<Option<Trace>> {
    let mut known = (MAGIC.len() as u64, Trace::new());
    for segment in log.cover().into_iter().rev().filter(|segment| segment.to <= at) {
        let trace = repository.binlog_note(segment)?.trace;
        if let Some(trace) = trace.as_deref().and_then(Trace::of_text) {
            known = (segment.to, trace);
            break;
        }
    }
    let (from, mut trace) = known;
    let end = each_between(repository, log, (from, at), &mut |event| trace.take(event))?;
    Ok((end == at).then_some(trace))
}

/// Whether a log that begins behind these GTIDs goes on where the archived one ends, though its last event may be torn.
pub(super) fn joins(repository: &Repository, flavour: Flavour, log: &Log, gtids: Option<&str>) -> Result<bool> {
    let mut state = State::new(flavour);
    each_event(repository, log, log.end(), &mut |event| state.take(event))?;
    let ends = [state.gtids(), state.gtids_begun()];
    Ok(gtids.is_some_and(|gtids| ends.iter().flatten().any(|end| end == gtids)))
}

/// A log of the same name and the same beginning, which is another one.
pub(super) fn free_head(archived: &[Log], created: u32, head: &str, file: &str) -> String {
    let taken = |head: &str| archived.iter().any(|log| log.is_named(created, Some(head), file));
    (1..)
        .map(|number| format!("{head}_{number}"))
        .find(|head| !taken(head))
        .unwrap_or_default()
}

/// Whether a log's number says that the server began to count anew behind that one.
pub(super) fn counts_anew(newest: &Log, oldest: &ServerFile) -> bool {
    logs::number(&oldest.name) <= logs::number(&newest.file)
}
