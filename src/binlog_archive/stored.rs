//! The binary logs that a backup has among its files go into the archive: for what the server threw away before it was archived.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::logs::{self, Log};
use super::{lines, name_of, resume, server_name, servers_named};
use crate::database::mysql::binlog::{self, trace};
use crate::database::mysql::stream::MAGIC;
use crate::database::{PathRole, ServerFacts};
use crate::monitor::Monitor;
use crate::record::Record;
use crate::repository::{Backup, EntryKind, Join, Link, Repository, Segment, SegmentNote};
use crate::restore::{Destination, Request, record_of, restore};
use crate::sys::signal::Cancel;
use crate::{Error, Result};

/// A segment has so many bytes at most.
const SEGMENT: u64 = 32 << 20;

/// What came out of a backup.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Report {
    /// The server, as the archive names it.
    pub server: String,
    /// Logs that the backup has.
    pub logs: u64,
    /// Those of them that were not archived, or not as far.
    pub added: Vec<String>,
    /// Bytes of logs that are archived now and were not before.
    pub bytes: u64,
}

/// Archives the logs of a backup that the archive has not, or not as far. They are restored into `work` for it.
///
/// # Errors
/// The backup has no logs, or they are encrypted or damaged; the repository cannot be written.
pub fn from_backup(
    repository: &Repository,
    backup: &Backup,
    work: &Path,
    workers: usize,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<Report> {
    let manifest = backup.manifest();
    let record = record_of(manifest)?;
    let Some(facts) = &record.server else {
        return Err(Error::usage(format!(
            "backup {} holds no database",
            manifest.id.short()
        )));
    };
    let paths = paths(backup, &record, facts, cancel)?;
    if paths.is_empty() {
        return Err(Error::usage(format!(
            "backup {} holds no binary logs: they were left out, or the server wrote none",
            manifest.id.short()
        )));
    }
    let request = Request {
        destination: Destination::Target(work.join("logs")),
        include: paths.clone(),
        ..Request::to_datadir(work.to_owned(), workers)
    };
    restore(repository, &manifest.id.to_string(), &request, monitor, cancel)?;
    let mut report = Report {
        server: name_in_archive(repository, &manifest.host, facts, &record)?,
        ..Report::default()
    };
    let archived = logs::of_server(repository, &manifest.host, &report.server)?;
    let mut link: Option<Link> = None;
    for (index, path) in paths.iter().enumerate() {
        cancel.check()?;
        let restored = work.join("logs").join(path.strip_prefix("/").unwrap_or(path));
        // Its header may not have been written yet.
        let (Some(extent), Some(head)) = (binlog::extent(&restored)?, trace::head(&restored)?) else {
            continue;
        };
        report.logs += 1;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let next = paths.get(index + 1).and_then(|next| next.file_name());
        let mut log = Segment {
            host: manifest.host.clone(),
            server: report.server.clone(),
            created: extent.created,
            head: Some(head.short()),
            // The server had gone on to the next one.
            closed: next.is_some_and(|next| logs::follows(&file, &next.to_string_lossy())),
            file,
            from: 0,
            to: extent.end,
        };
        let known = same_log(repository, &archived, &log, &restored)?;
        log.head = match known {
            Some(known) => known.head.clone(),
            None => free(&archived, &log),
        };
        let before = link.replace(Link {
            created: log.created,
            head: log.head.clone(),
            file: log.file.clone(),
            end: log.to,
            join: Join::Follows,
        });
        let follows = |before: &Link| logs::follows(&before.file, &log.file);
        let before = before.filter(follows);
        if let (Some(known), Some(before)) = (known, &before) {
            fill(repository, known, &log, before)?;
        }
        let (from, closed) = known.map_or((0, false), |known| (known.end(), known.closed()));
        if closed || from >= log.to && !log.closed {
            continue;
        }
        store(repository, &restored, &Segment { from, ..log.clone() }, before.as_ref())?;
        report.bytes += log.to.saturating_sub(from);
        report.added.push(log.file);
    }
    repository.store().sync().map_err(crate::repository::Error::from)?;
    Ok(report)
}

/// What was a gap in front of an archived log is none any more: an empty segment says so.
fn fill(repository: &Repository, known: &Log, log: &Segment, before: &Link) -> Result<()> {
    let linked = lines::link_of(repository, known)?;
    if known.head.is_none() || linked.is_some_and(|link| link.join == Join::Follows) {
        return Ok(());
    }
    let note = SegmentNote {
        link: Some(before.clone()),
        ..SegmentNote::default()
    };
    let segment = Segment {
        to: 0,
        closed: false,
        ..log.clone()
    };
    repository.put_binlog(&segment, &note, &[])?;
    Ok(())
}

/// The archive of before 0.2, where the job has none of its own; else the job's.
fn name_in_archive(repository: &Repository, host: &str, facts: &ServerFacts, record: &Record) -> Result<String> {
    let (own, old) = (name_of(facts, record.job.as_ref()), server_name(facts));
    let names = servers_named(repository, host, &old)?;
    Ok(if names.contains(&old) && !names.contains(&own) {
        old
    } else {
        own
    })
}

/// The archived log that a restored file is: as far as both go they have the same events.
fn same_log<'l>(repository: &Repository, archived: &'l [Log], log: &Segment, file: &Path) -> Result<Option<&'l Log>> {
    let named = |known: &&Log| known.file == log.file && known.created == log.created;
    for known in archived.iter().filter(named) {
        let mut end = 0;
        resume::each_event(repository, known, log.to, &mut |event| end += event.len() as u64)?;
        let at = end + MAGIC.len() as u64;
        if trace::at(file, at)? == resume::trace_of(repository, known, at)? {
            return Ok(Some(known));
        }
    }
    Ok(None)
}

/// What a log is called that is not archived.
fn free(archived: &[Log], log: &Segment) -> Option<String> {
    let head = log.head.as_deref()?;
    let taken = archived
        .iter()
        .any(|other| other.is_named(log.created, Some(head), &log.file));
    Some(match taken {
        true => resume::free_head(archived, log.created, head, &log.file),
        false => head.to_owned(),
    })
}

/// Stores a part of a file, in segments.
fn store(repository: &Repository, file: &Path, part: &Segment, link: Option<&Link>) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let failed = |error| crate::sys::Error::path("read", file, error);
    // A backup that was crafted has a link or a pipe of that name.
    let open = crate::sys::fs::open_plain(file)?;
    let mut from = part.from;
    loop {
        let to = part.to.min(from.saturating_add(SEGMENT)).max(from);
        let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(usize::MAX)];
        open.read_exact_at(&mut bytes, from).map_err(failed)?;
        let last = to >= part.to;
        let segment = Segment {
            from,
            to,
            closed: part.closed && last,
            ..part.clone()
        };
        let note = SegmentNote {
            trace: trace::at(file, to)?.map(|trace| trace.text()),
            link: link.cloned().filter(|_| from == 0),
            ..SegmentNote::default()
        };
        repository.put_binlog(&segment, &note, &bytes)?;
        if last {
            return Ok(());
        }
        from = to;
    }
}

/// Original paths of a backup's binary logs, in the order of their numbers.
fn paths(backup: &Backup, record: &Record, facts: &ServerFacts, cancel: &Cancel) -> Result<Vec<PathBuf>> {
    let written: Vec<_> = record
        .paths
        .iter()
        .filter(|path| path.role == PathRole::BinaryLog)
        .collect();
    let Some(position) = &record.position else {
        return Err(Error::usage(
            "the backup has no position, which names the server's logs",
        ));
    };
    let Some((base, _)) = position.file.rsplit_once('.') else {
        return Ok(Vec::new());
    };
    let is_log = |path: &Path| {
        let directory = path.parent().unwrap_or(&facts.datadir);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        written.iter().any(|written| written.path == directory)
            && name
                .strip_prefix(base)
                .and_then(|rest| rest.strip_prefix('.'))
                .is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
    };
    let mut found = Vec::new();
    for entry in backup.entries()? {
        cancel.check()?;
        let entry = entry?;
        let Some(root) = record.roots.get(entry.root as usize) else {
            continue;
        };
        let path = root.path.join(std::ffi::OsStr::from_bytes(&entry.path));
        if matches!(entry.kind, EntryKind::File { .. }) && is_log(&path) {
            found.push(path);
        }
    }
    found.sort_by_key(|path| logs::number(&path.to_string_lossy()));
    Ok(found)
}
