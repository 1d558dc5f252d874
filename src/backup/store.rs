//! Copy and commit: from the readable snapshots into the repository.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Outcome;
use super::run::Run;
use super::snapshots::Taken;
use super::trees::{self, PlannedTree};
use crate::config::{self, Config};
use crate::copy::{self, CopyOptions, CopyReport};
use crate::finding::{Finding, Severity};
use crate::job::{self, Job, Likeness};
use crate::record::{ChecksumRecord, Record};
use crate::repository::{Announcement, ChunkClass, Draft, Repository, Running, Writer, WriterOptions};
use crate::units::Id;
use crate::volume::Volume;
use crate::{Error, Result};

/// What is stored, and where.
pub(crate) struct Work<'a> {
    pub config: &'a Config,
    /// Tags for this backup, over the configuration's.
    pub tags: &'a BTreeMap<String, String>,
    pub repository: &'a Repository,
    /// The trees' volumes, by index.
    pub volumes: &'a [Volume],
    pub planned: &'a [PlannedTree],
    /// The instant of the snapshots.
    pub time: jiff::Timestamp,
    /// What is known before the copy.
    pub facts: Record,
}

/// Trees that are copied, and wait for the commit.
pub(crate) struct Copied<'a> {
    work: Work<'a>,
    writer: Writer,
    report: CopyReport,
    /// Until the manifest is there: `forget` and `prune` leave alone what this run needs.
    _announced: Announcement,
}

/// Copies the trees.
pub(crate) fn copy<'a>(run: &mut Run<'_>, mut work: Work<'a>, taken: &Taken<'_>) -> Result<Copied<'a>> {
    let (parent, sequence) = follows(work.repository, &host_name(work.config), &work.facts)?;
    work.facts.sequence = Some(sequence);
    let announced = work.repository.announce(Running {
        run: run.id,
        host: host_name(work.config),
        parent,
        owner: format!("{}:{}", crate::sys::host::name(), work.config.state_dir.display()),
    })?;
    let writer = begin(run, &work, parent)?;
    let report = run.phase("copy", |run| copy_trees(run, &work, taken, &writer))?;
    // The monitor has heard them.
    run.findings.extend(taken.said());
    run.note(
        report
            .findings
            .iter()
            .filter(|finding| finding.severity != Severity::Note)
            .cloned(),
    );
    run.note(read_back(&writer));
    Ok(Copied {
        work,
        writer,
        report,
        _announced: announced,
    })
}

impl Copied<'_> {
    /// Checksums that were read after the copy.
    pub fn add_checksums(&mut self, checksums: Option<ChecksumRecord>) {
        if checksums.is_some() {
            self.work.facts.checksums = checksums;
        }
    }

    /// Commits the backup.
    pub fn commit(self, run: &mut Run<'_>) -> Result<Outcome> {
        let Copied {
            work,
            writer,
            report,
            _announced,
        } = self;
        run.phase("commit", |run| commit(run, work, writer, report))
    }
}

/// A parent that cannot be read costs time, not the backup.
fn begin(run: &mut Run<'_>, work: &Work<'_>, parent: Option<Id>) -> Result<Writer> {
    let options = WriterOptions {
        id: run.id,
        parent,
        level: work.config.copy.level,
    };
    let read_back = work.config.copy.read_back;
    match work.repository.begin(options.clone()) {
        Err(error) if parent.is_some() => {
            run.note([Finding::warning(
                "parent-unreadable",
                format!("the previous backup cannot be compared with: {error}"),
            )
            .remedy("`snapback verify --all` shows what is damaged; this backup stores everything again")]);
            Ok(work.repository.begin(WriterOptions {
                parent: None,
                ..options
            })?)
        }
        begun => Ok(begun?.with_read_back(read_back)),
    }
}

/// What the sample of chunks that were read back says of the repository.
fn read_back(writer: &Writer) -> Vec<Finding> {
    let report = writer.read_back();
    let finding = |(pack, reason): (Id, String)| {
        let said = format!(
            "of {} chunks that were read back from the repository, one in the pack {pack} is damaged: {reason}; what this run shares with \
             the pack and met later is stored anew, what it met before may be damaged",
            report.chunks
        );
        Finding::warning("read-back", said).remedy(
            "`snapback verify --all --level data` shows all damage; `snapback repair`, then a backup, stores it anew",
        )
    };
    report.damaged.clone().into_iter().map(finding).collect()
}

/// The backup that a new one is compared with, the newest of its job, and the new one's number. Where a record is too old to tell, its backup may be the parent
/// too, which only saves space, but no number follows from it.
fn follows(repository: &Repository, host: &str, record: &Record) -> Result<(Option<Id>, u64)> {
    let own = Job::of_record(host, record);
    let listed = repository.list()?;
    let groups = job::groups(listed.iter().filter_map(|one| one.manifest.as_ref().ok()));
    let now = jiff::Timestamp::now();
    let newest = |wanted: Likeness| {
        let like = groups.iter().filter(|group| group.likeness(&own) == wanted);
        let newest = like.filter_map(|group| group.newest(now));
        newest.max_by_key(|one| (one.sequence, one.manifest.time))
    };
    let same = newest(Likeness::Same);
    let sequence = same.map_or(0, |one| one.sequence).saturating_add(1);
    let parent = same.or(newest(Likeness::CannotTell));
    Ok((parent.map(|one| one.manifest.id), sequence))
}

fn copy_trees(run: &Run<'_>, work: &Work<'_>, taken: &Taken<'_>, writer: &Writer) -> Result<CopyReport> {
    let tops: Vec<Option<PathBuf>> = work.volumes.iter().map(|volume| taken.top_of(volume)).collect();
    let trees = trees::readable(work.planned, &tops, work.config, &work.facts.paths, &taken.places);
    let options = copy_options(&work.config.copy);
    Ok(copy::copy(
        &trees,
        writer,
        &options,
        &|| taken.health(Some(&options.hurry), run.monitor),
        run.monitor,
        run.cancel,
    )?)
}

fn copy_options(copy: &config::Copy) -> CopyOptions {
    let defaults = CopyOptions::default();
    CopyOptions {
        workers: if copy.workers == 0 {
            defaults.workers
        } else {
            copy.workers
        },
        bandwidth: copy.bandwidth.map(|bandwidth| bandwidth.as_u64()),
        idle_priority: copy.idle_priority,
        class: ChunkClass::of(copy.chunk_size.as_u64()).unwrap_or_default(),
        live_attempts: copy.live_attempts,
        ..defaults
    }
}

fn commit(run: &mut Run<'_>, work: Work<'_>, writer: Writer, report: CopyReport) -> Result<Outcome> {
    let record = Record {
        phases: run.timeline.phases(),
        copy: report.figures,
        left_out: report.left_out,
        warnings: run.findings.clone(),
        ..work.facts
    };
    let mut tags: BTreeMap<String, String> = work.config.tags.clone();
    tags.extend(work.tags.clone());
    let as_json =
        serde_json::to_value(&record).map_err(|error| Error::failed(format!("cannot write the record: {error}")))?;
    let draft = Draft {
        time: work.time,
        host: host_name(work.config),
        tags,
        record: as_json,
    };
    // The manifest is the commit point: `commit` makes every pack durable first.
    let manifest = writer.commit(draft)?;
    Ok(Outcome { manifest, record })
}

/// The name under which this host's backups are kept.
pub(crate) fn host_name(config: &Config) -> String {
    config.host.clone().unwrap_or_else(crate::sys::host::name)
}
