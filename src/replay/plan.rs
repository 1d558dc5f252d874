//! Which backup, which logs, and where in them the replay ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::point::{Asked, Until};
use super::reading::{Reading, shown};
use super::{Plan, candidates};
use crate::binlog_archive::lines::{History, Line};
use crate::binlog_archive::then::{Then, split};
use crate::binlog_archive::{found, logs, server_name, servers_named};
use crate::database::Flavour;
use crate::database::mysql::binlog::history;
use crate::database::mysql::whole_log;
use crate::finding::Finding;
use crate::job::Whose;
use crate::record::Record;
use crate::repository::{Backup, Repository};
use crate::sys::signal::Cancel;
use crate::{Error, Result};

/// Finds the newest backup of a job from which the archived logs lead to the point; or looks at the one that is named. Logs are written into `work`.
///
/// # Errors
/// There is none, and why; or the point is in several lines of history.
pub fn plan(
    repository: &Repository,
    whose: &Whose,
    id: Option<&str>,
    asked: &Asked,
    work: &Path,
    cancel: &Cancel,
) -> Result<Plan> {
    let mut reasons = Vec::new();
    let mut planner = Planner {
        repository,
        host: String::new(),
        asked,
        work,
        cancel,
        histories: BTreeMap::new(),
    };
    for (backup, record) in candidates(repository, whose, id)? {
        let short = backup.manifest().id.short();
        if planner.host != backup.manifest().host {
            planner.host.clone_from(&backup.manifest().host);
            planner.histories.clear();
        }
        match planner.from(backup, record)? {
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
        "no backup of {} leads to that point:\n  {}\n`snapback binlog list` says what is archived",
        whose.host,
        reasons.join("\n  ")
    )))
}

type Fit<T> = std::result::Result<T, String>;

struct Planner<'a> {
    repository: &'a Repository,
    /// The one whose archive is read.
    host: String,
    asked: &'a Asked,
    work: &'a Path,
    cancel: &'a Cancel,
    /// Of each name in the archive.
    histories: BTreeMap<String, History>,
}

/// Where one line leads to.
struct Way<'a> {
    reading: Reading<'a>,
    /// The logs that were read, each with where it was written.
    used: Vec<(usize, PathBuf)>,
    line: Line,
    server: String,
    warnings: Vec<Finding>,
}

impl Way<'_> {
    /// Its last log and the end in that.
    fn end(&self) -> (&str, usize, u64) {
        let last = self.last_part();
        (&self.server, self.line.parts[last].0, self.reading.position)
    }

    fn last_part(&self) -> usize {
        let named =
            |(_, path): &(usize, PathBuf)| path.file_name().is_some_and(|name| name == self.reading.file.as_str());
        self.used.iter().position(named).unwrap_or(0)
    }

    /// Whether all of it is in the other one as well.
    fn is_in(&self, other: &Way<'_>) -> bool {
        let (server, log, position) = self.end();
        let part = other
            .line
            .parts
            .iter()
            .position(|(index, end)| *index == log && *end >= position);
        let last = other.last_part();
        let ends_behind = |part: usize| part < last || (part == last && position <= other.reading.position);
        server == other.server && part.is_some_and(ends_behind)
    }

    fn shown(&self, history: &History) -> String {
        let head = id_of(history, &self.line);
        let last = self
            .reading
            .last
            .map(|time| format!(", last change at {}", shown(time)))
            .unwrap_or_default();
        format!(
            "--line {head}: to {}:{}{last}",
            self.reading.file, self.reading.position
        )
    }
}

impl<'a> Planner<'a> {
    fn from(&mut self, backup: Backup, record: Record) -> Result<Fit<Plan>> {
        let (Some(facts), Some(position)) = (record.server.clone(), record.position.clone()) else {
            return Ok(Err("it has no position".to_owned()));
        };
        let time = backup.manifest().time;
        if let Some(reason) = self.too_late(&record, time) {
            return Ok(Err(reason));
        }
        let starts = match self.starts(&record, time)? {
            Ok(starts) => starts,
            Err(reason) => return Ok(Err(reason)),
        };
        let (mut ways, mut reasons) = (Vec::new(), Vec::new());
        for (server, log) in starts {
            for line in self.histories[&server].lines_from(log, position.position) {
                match self.follow(&server, line, facts.flavour, (&position.file, position.position))? {
                    Ok(way) => ways.push(way),
                    Err(reason) => reasons.push(reason),
                }
            }
        }
        let way = match self.one_of(ways)? {
            Some(way) => way,
            None => {
                reasons.dedup();
                return Ok(Err(reasons.join("; ")));
            }
        };
        self.refuse_elsewhere(&way, facts.flavour)?;
        self.finish(backup, record, way).map(Ok)
    }

    /// A backup that may hold what was committed after the time, by its own clock.
    fn too_late(&self, record: &Record, time: jiff::Timestamp) -> Option<String> {
        let Until::Time(until) = self.asked.until else {
            return None;
        };
        let settled = logs::settled_by(record, time);
        // The log counts in seconds: before one of them means before its begin.
        let limit = match self.asked.before {
            true => jiff::Timestamp::from_second(until.as_second()).unwrap_or(until),
            false => until,
        };
        (settled > limit).then(|| format!("it may hold what was committed up to {settled}, which is later"))
    }

    /// The logs that the backup's position is in, each with the name that its server has in the archive.
    fn starts(&mut self, record: &Record, time: jiff::Timestamp) -> Result<Fit<Vec<(String, usize)>>> {
        let Some(facts) = &record.server else {
            return Ok(Err("it has no server".to_owned()));
        };
        let (mut starts, mut reasons) = (Vec::new(), Vec::new());
        for server in servers_named(self.repository, &self.host, &server_name(facts))? {
            if !self.histories.contains_key(&server) {
                let history = History::read(self.repository, &self.host, &server)?;
                self.histories.insert(server.clone(), history);
            }
            match found::log_of(self.repository, &self.histories[&server], record, time)? {
                Ok(logs) => starts.extend(logs.into_iter().map(|log| (server.clone(), log))),
                Err(reason) => reasons.push(reason),
            }
        }
        // What several jobs have is the record's own.
        let own = crate::binlog_archive::name_of(facts, record.job.as_ref());
        if starts.iter().any(|(server, _)| *server == own) {
            starts.retain(|(server, _)| *server == own);
        }
        if starts.iter().any(|(server, _)| *server != starts[0].0) {
            let servers: Vec<&str> = starts.iter().map(|(server, _)| server.as_str()).collect();
            return Ok(Err(format!(
                "its position is in the archives of several servers, and it does not tell whose it is: {}",
                servers.join(", ")
            )));
        }
        if starts.is_empty() {
            let position = record.position.as_ref().map_or("", |position| &position.file);
            reasons.dedup();
            reasons.extend(reasons.is_empty().then(|| format!("{position} is not archived")));
            return Ok(Err(reasons.join("; ")));
        }
        Ok(Ok(starts))
    }

    /// Reads a line from the backup's position on.
    fn follow(&self, server: &str, line: Line, flavour: Flavour, from: (&str, u64)) -> Result<Fit<Way<'a>>> {
        let history = &self.histories[server];
        if let Err(reason) = self.leads_there(history, &line, from) {
            return Ok(Err(reason));
        }
        let mut reading = Reading::new(self.asked, from.0, from.1);
        let (mut used, mut warnings) = (Vec::new(), Vec::new());
        if self.was_later_before(history, line.parts[0].0)? {
            return Ok(Err(
                "what lies before its position has later times than that: the server's clock was put back".to_owned(),
            ));
        }
        for (number, (index, end)) in line.parts.iter().enumerate() {
            self.cancel.check()?;
            let log = &history.logs[*index].log;
            if reading.found && !reading.needs(self.earliest(log)?) {
                continue;
            }
            if number > 0 && log.head.is_none() && !self.joins(history, line.parts[number - 1].0, *index, flavour)? {
                return Ok(Err(format!("{} does not go on where the log before it ends", log.file)));
            }
            let path = self.written(server, history, *index, *end)?;
            let begin = if number == 0 { from.1 } else { 0 };
            let mut late_before = false;
            let whole = history::read(&path, flavour, &mut |change| {
                if change.start < begin {
                    late_before |= reading.is_late(change.time);
                    return true;
                }
                reading.take(&change)
            })?;
            if late_before {
                return Ok(Err(
                    "its log has later times than that before its position: the server's clock was put back".to_owned(),
                ));
            }
            if !reading.found {
                // Of a group that a crash cut off nothing was committed.
                cut(&path, whole)?;
            }
            used.push((*index, path));
            // What comes behind the log that a position names is behind the position.
            let named = matches!(&self.asked.until, Until::At(file, _) if *file == log.file);
            if named || reading.found && !matches!(self.asked.until, Until::Time(_)) {
                break;
            }
        }
        if let Some(reason) = reading.unclear() {
            return Ok(Err(reason));
        }
        match (&self.asked.until, &line.gap) {
            (Until::Gtid(gtid), _) if !reading.found => return Ok(Err(format!("{gtid} is not in the logs behind it"))),
            (Until::End, Some(gap)) => warnings.push(Finding::warning(
                "binlog-gap",
                format!("the replay ends at a gap: {gap}"),
            )),
            (Until::Time(_), Some(gap)) if !reading.found => {
                return Ok(Err(format!("the archive has a gap before that point: {gap}")));
            }
            (Until::Time(_), None) if !reading.found => warnings.push(ends_earlier(&reading)),
            _ => {}
        }
        Ok(Ok(Way {
            reading,
            used,
            line,
            server: server.to_owned(),
            warnings,
        }))
    }

    /// Whether a line has the log and the offset that are asked for.
    fn leads_there(&self, history: &History, line: &Line, from: (&str, u64)) -> Fit<()> {
        let log = |index: usize| &history.logs[index].log;
        if let Some(wanted) = &self.asked.line {
            // Another line may leave a log in its middle.
            let is = |(index, end): &(usize, u64)| *end == log(*index).end() && is_called(log(*index), wanted);
            if !line.parts.iter().any(is) {
                return Err(format!("no line from its position has all of a log {wanted}"));
            }
        }
        let Until::At(file, at) = &self.asked.until else {
            return Ok(());
        };
        let Some(part) = line.parts.iter().position(|(index, _)| log(*index).file == *file) else {
            let gap = line
                .gap
                .as_ref()
                .map(|gap| format!("; behind its logs there is a gap: {gap}"));
            let archived = history.logs.iter().any(|placed| placed.log.file == *file);
            return Err(match archived {
                true => format!("no log leads from it to {file}{}", gap.unwrap_or_default()),
                false => format!("{file} is not archived"),
            });
        };
        if self.asked.line.is_none() {
            self.is_newest(history, line, part, *at)?;
        }
        match line.parts[part] {
            _ if part == 0 && *at < from.1 => Err("it ends behind that point".to_owned()),
            (_, end) if end < *at => Err(format!("{file} is archived to {end} only")),
            _ => Ok(()),
        }
    }

    /// A log's name means the newest of that name: not one that the server began anew since, or has on another line.
    fn is_newest(&self, history: &History, line: &Line, part: usize, at: u64) -> Fit<()> {
        let (own, file) = (line.parts[part].0, &history.logs[line.parts[part].0].log.file);
        let older = history.before(own);
        let twin = history.logs.iter().enumerate().find(|(index, placed)| {
            let other = *index != own && placed.log.file == *file && placed.log.end() >= at;
            other && !older.contains(index) && !line.parts.iter().any(|(on_line, _)| on_line == index)
        });
        match twin {
            Some((index, placed)) => Err(format!(
                "{file} was begun anew (RESET) since, or is on two lines of history, and no log leads from this backup to {}: say which with --line {} or --line {}",
                placed.log.id(),
                id(&history.logs[own].log),
                id(&history.logs[index].log)
            )),
            None => Ok(()),
        }
    }

    /// Whether a log before a backup's has an event whose time is behind the point.
    fn was_later_before(&self, history: &History, first: usize) -> Result<bool> {
        if !matches!(self.asked.until, Until::Time(_)) {
            return Ok(false);
        }
        let reading = Reading::new(self.asked, "", 0);
        let parts = history.up_to(first);
        for (index, end) in &parts[..parts.len() - 1] {
            for segment in history.logs[*index].log.cover() {
                let latest = self.repository.binlog_note(segment)?.latest.unwrap_or(segment.created);
                if segment.from < *end && reading.is_late(latest) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn earliest(&self, log: &logs::Log) -> Result<Option<u32>> {
        let mut earliest = Some(u32::MAX);
        for segment in log.cover() {
            let note = self.repository.binlog_note(segment)?;
            earliest = earliest.zip(note.earliest).map(|(one, other)| one.min(other));
        }
        Ok(earliest)
    }

    /// Whether a log of an old archive, which has no links, goes on where another ends.
    fn joins(&self, history: &History, before: usize, log: usize, flavour: Flavour) -> Result<bool> {
        let (before, log) = (&history.logs[before].log, &history.logs[log].log);
        found::joins(self.repository, flavour, before, log)
    }

    /// The log as a file, up to an offset. Each line has its own where they part.
    fn written(&self, server: &str, history: &History, index: usize, end: u64) -> Result<PathBuf> {
        let directory = self.work.join(format!("{}-{server}-{index}-{end}", self.host));
        let log = &history.logs[index].log;
        let path = directory.join(&log.file);
        if !path.exists() {
            let failed = |error| crate::sys::Error::path("make the directory", &directory, error);
            std::fs::create_dir_all(&directory).map_err(failed)?;
            log.write_into(self.repository, &directory)?;
            cut(&path, end)?;
        }
        Ok(path)
    }

    /// The way that all others are a part of; several are refused.
    fn one_of(&self, mut ways: Vec<Way<'a>>) -> Result<Option<Way<'a>>> {
        // A line that ends earlier and has nothing of its own is no other history.
        let mut index = 0;
        while index < ways.len() {
            let other = |(number, other): (usize, &Way<'_>)| number != index && ways[index].is_in(other);
            match ways.iter().enumerate().any(other) {
                true => drop(ways.remove(index)),
                false => index += 1,
            }
        }
        if ways.len() > 1 {
            let shown: Vec<String> = ways.iter().map(|way| way.shown(&self.histories[&way.server])).collect();
            return Err(Error::usage(format!(
                "that point is in {} lines of history: the server went back (a rollback, a restore) or was cloned. Say which with --line:\n  {}",
                shown.len(),
                shown.join("\n  ")
            )));
        }
        Ok(ways.pop())
    }

    /// A GTID that another line has as well, whichever backup was chosen.
    fn refuse_elsewhere(&self, way: &Way<'_>, flavour: Flavour) -> Result<()> {
        let Until::Gtid(gtid) = &self.asked.until else {
            return Ok(());
        };
        let history = &self.histories[&way.server];
        let (_, last, _) = way.end();
        let mut own: Vec<(usize, u64)> = history.up_to(last);
        if let Some(part) = own.last_mut() {
            part.1 = u64::MAX;
        }
        let parted =
            (0..history.logs.len()).any(|log| history.fork_before(log).is_some() || history.gap_before(log).is_some());
        if self.asked.line.is_some() || !parted {
            return Ok(());
        }
        for (index, placed) in history.logs.iter().enumerate() {
            self.cancel.check()?;
            let from = own.iter().find(|(log, _)| *log == index).map_or(0, |(_, end)| *end);
            if from >= placed.log.end() {
                continue;
            }
            let mut twin = None;
            let path = self.written(&way.server, history, index, placed.log.end())?;
            history::read(&path, flavour, &mut |change| {
                let is = change.start >= from && change.gtid.as_ref() == Some(gtid);
                twin = twin.or(is.then_some(change.end));
                !is
            })?;
            if let Some(end) = twin {
                return Err(Error::usage(format!(
                    "{gtid} is in two lines of history: the server went back (a rollback, a restore, RESET). Say which:\n  --line {}: to {}:{}\n  --line {}: to {}:{end}",
                    id_of(history, &way.line),
                    way.reading.file,
                    way.reading.position,
                    id(&placed.log),
                    placed.log.file
                )));
            }
        }
        Ok(())
    }

    /// What the server was like from the backup to the end, and a warning about what changed on the way.
    fn then(&self, record: &Record, used: &[logs::Log], reading: &Reading<'_>) -> Result<(Then, Option<Finding>)> {
        let variables = record.server.as_ref().map(|facts| &facts.variables);
        let variable = |name: &str| variables.and_then(|variables| variables.get(name));
        let mut all = Then {
            libraries: split(variable("plugin_libraries").map_or("", String::as_str)),
            ..Then::default()
        };
        let said = record
            .warnings
            .iter()
            .filter(|finding| finding.code == whole_log::NOT_WHOLE);
        all.unlogged
            .extend(said.flat_map(|finding| reasons_of(&finding.message)));
        if reading.incident {
            all.unlogged
                .push("the server says in its log that it could not log something (an incident)".to_owned());
        }
        let mut changed = std::collections::BTreeSet::new();
        for log in used {
            for segment in log.cover() {
                let note = self.repository.binlog_note(segment)?;
                if let Some(then) = note.server.and_then(|then| serde_json::from_value(then).ok()) {
                    changed.extend(all.add(then));
                }
            }
        }
        let finding = (!changed.is_empty()).then(|| {
            let names: Vec<String> = changed.into_iter().collect();
            Finding::warning(
                "settings-changed",
                format!(
                    "these settings changed on the way, and the replay has the last values: {}",
                    names.join(", ")
                ),
            )
            .remedy("look at what was created meanwhile without naming its engine, format or character set")
        });
        Ok((all, finding))
    }

    /// Files that are replayed go to where the replay looks for them.
    fn finish(&self, backup: Backup, record: Record, way: Way<'_>) -> Result<Plan> {
        let history = &self.histories[&way.server];
        let last = way.last_part();
        let mut used = Vec::new();
        for (index, path) in &way.used[..=last] {
            let log = history.logs[*index].log.clone();
            let to = self.work.join(&log.file);
            std::fs::rename(path, &to).map_err(|error| crate::sys::Error::path("move", path, error))?;
            used.push(log);
        }
        let (then, changed) = self.then(&record, &used, &way.reading)?;
        let mut warnings = way.warnings;
        warnings.extend(not_whole(&then, self.asked)?);
        warnings.extend(changed);
        let reading = way.reading;
        let mut servers = reading.servers;
        servers.extend(
            record
                .server
                .as_ref()
                .and_then(|facts| u32::try_from(facts.server_id).ok()),
        );
        Ok(Plan {
            from: record.position.as_ref().map_or(0, |position| position.position),
            backup,
            record,
            logs: used,
            file: reading.file,
            position: reading.position,
            last: reading.last,
            changes: reading.changes,
            warnings,
            then,
            events: reading.events,
            work: self.work.to_owned(),
            servers,
            ends: reading.ends,
            workers: 1,
        })
    }
}

/// The reasons in a message of [`whole_log::finding`], for people.
fn reasons_of(message: &str) -> Vec<String> {
    let reasons = message.split_once(": ").map_or(message, |(_, reasons)| reasons);
    reasons.split("; ").map(str::to_owned).collect()
}

/// A point in time without what the log has not is no point in time: only who says so gets it, with a warning.
fn not_whole(then: &Then, asked: &Asked) -> Result<Option<Finding>> {
    if then.unlogged.is_empty() {
        return Ok(None);
    }
    let reasons = then.unlogged.join("; ");
    if !asked.incomplete {
        return Err(Error::usage(format!(
            "the archived logs are not the whole history of the server up to that point: {reasons}\n--accept-incomplete restores what they have; a later backup, restored as it is, has all"
        )));
    }
    Ok(Some(Finding::warning(
        whole_log::NOT_WHOLE,
        format!("what was not logged since the backup is missing: {reasons}"),
    )))
}

/// What `--line` names a log by.
fn id(log: &logs::Log) -> String {
    match &log.head {
        Some(head) => head.chars().take(8).collect(),
        None => log.created.to_string(),
    }
}

fn is_called(log: &logs::Log, wanted: &str) -> bool {
    match &log.head {
        Some(head) => head.starts_with(wanted),
        None => log.created.to_string() == wanted,
    }
}

/// What names a line: the last log on it.
fn id_of(history: &History, line: &Line) -> String {
    line.parts
        .last()
        .map_or(String::new(), |(last, _)| id(&history.logs[*last].log))
}

fn cut(path: &Path, end: u64) -> Result<()> {
    let file = std::fs::File::options().write(true).open(path);
    let cut = file.and_then(|file| match file.metadata()?.len() > end {
        true => file.set_len(end),
        false => Ok(()),
    });
    Ok(cut.map_err(|error| crate::sys::Error::path("cut", path, error))?)
}

fn ends_earlier(reading: &Reading<'_>) -> Finding {
    Finding::warning(
        "archive-ends-earlier",
        format!(
            "nothing in the archive is later than that time: it ends at {}:{}{}, and everything in it is replayed. Whether the server did more until then, it cannot tell",
            reading.file,
            reading.position,
            reading
                .last
                .map(|last| format!(", committed at {}", shown(last)))
                .unwrap_or_default()
        ),
    )
    .remedy("if the server, or its logs, can still be reached: `snapback binlog archive --once`, then again")
}
