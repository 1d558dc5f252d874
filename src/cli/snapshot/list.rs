//! `snapback snapshot list` and `show`.

use clap::Args;

use super::super::show::{flavour, time, word};
use super::super::{Context, Exit, output, timeline};
use super::One;
use crate::config::Config;
use crate::database::Position;
use crate::finding::Finding;
use crate::held;
use crate::snapshot::status::{self, Status};
use crate::units::{Bytes, human_micros};
use crate::volume::ProviderKind;
use crate::{Error, Result};

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    space: Space,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    one: One,
    #[command(flatten)]
    space: Space,
}

#[derive(Debug, Args)]
struct Space {
    /// Measure the space that is held where the storage does not say (Btrfs without quotas): a look at every extent
    #[arg(long = "space")]
    measured: bool,
}

pub(super) fn run(arguments: &List, context: &Context<'_>) -> Result<Exit> {
    let config = context.config()?;
    let (mut sets, mut findings) = status::list(&config)?;
    for set in &mut sets {
        arguments.space.measure(&config, set, context)?;
    }
    if context.global.json {
        output::json(&sets)?;
    } else if sets.is_empty() {
        output::say("no held sets");
    } else {
        let headers = [
            "id",
            "time (UTC)",
            "age",
            "label",
            "promise",
            "position",
            "space",
            "full",
            "expires (UTC)",
            "notes",
        ];
        output::line(output::table(&headers, sets.iter().map(row).collect()));
    }
    findings.extend(sets.into_iter().flat_map(|set| set.findings));
    findings
        .iter()
        .for_each(|finding| output::say(output::finding(finding)));
    Ok(Exit::after(&findings))
}

impl Space {
    /// If it was asked for. What cannot be measured is told, and stays unknown.
    fn measure(&self, config: &Config, set: &mut Status, context: &Context<'_>) -> Result<()> {
        if !self.measured {
            return Ok(());
        }
        match status::measure(config, set, context.cancel) {
            Err(Error::Interrupted(signal)) => Err(Error::Interrupted(signal)),
            Err(error) => {
                let said = format!("held set {}: its space is unknown: {error}", set.held.id.short());
                set.findings.push(Finding::warning("space", said));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

fn row(set: &Status) -> Vec<String> {
    let held = &set.held;
    let is = |code| set.findings.iter().any(|finding| finding.code == code);
    let (lost, unreachable) = (is(held::LOST), is(held::UNREACHABLE));
    let notes = [
        (held.deleting, "half deleted"),
        (lost, "lost"),
        (unreachable, "out of reach"),
        (held.expired(jiff::Timestamp::now()), "expired"),
    ];
    let notes: Vec<&str> = notes.iter().filter(|(is, _)| *is).map(|(_, note)| *note).collect();
    vec![
        held.id.short(),
        time(held.time),
        age(set.age_s),
        held.label.clone().unwrap_or_default(),
        set.level.to_owned(),
        held.record.position.as_ref().map(position).unwrap_or_default(),
        set.bytes
            .map_or("unknown".to_owned(), |bytes| Bytes::b(bytes).to_string()),
        full(set),
        held.expires.map(time).unwrap_or_default(),
        notes.join(", "),
    ]
}

fn position(position: &Position) -> String {
    format!("{}:{}", position.file, position.position)
}

/// How full its storage is, and when it will be.
fn full(set: &Status) -> String {
    match (set.fill, set.full_in_s) {
        (None, _) => "unknown".to_owned(),
        (Some(fill), None) => format!("{fill:.0} %"),
        (Some(fill), Some(seconds)) => format!("{fill:.0} %, all in {}", age(seconds)),
    }
}

fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

pub(super) fn show(arguments: &Show, context: &Context<'_>) -> Result<Exit> {
    let config = context.config()?;
    let held = held::choose(&config.state_dir, &arguments.one.set)?;
    let mut status = status::of(&config, held);
    arguments.space.measure(&config, &mut status, context)?;
    if context.global.json {
        output::json(&status)?;
    } else {
        summary(&status);
        details(&status);
    }
    Ok(Exit::after(&status.findings))
}

/// What a person wants to know first.
pub(super) fn summary(set: &Status) {
    let (held, record) = (&set.held, &set.held.record);
    let line = |name: &str, text: String| output::line(format_args!("  {name:<9} {text}"));
    let exact = match (record.exact, &record.position) {
        (true, Some(_)) => ", position exact",
        (false, Some(_)) => ", position NOT exact",
        (_, None) => "",
    };
    let (id, host) = (output::bold(held.id.short()), &held.host);
    output::line(format_args!(
        "held set {id} of {host} at {}: {}{exact}",
        time(held.time),
        set.level
    ));
    held.label.iter().for_each(|label| line("label", label.clone()));
    if let Some(server) = &record.server {
        let state = word(&held.server);
        line(
            "server",
            format!(
                "{} {} at {}, {state}",
                flavour(server.flavour),
                server.version,
                server.address
            ),
        );
    } else {
        line("server", word(&held.server));
    }
    if let Some(lock) = record.lock.as_ref().filter(|lock| lock.held_us > 0) {
        line(
            "lock",
            format!("{}, held {}", word(&lock.strategy), human_micros(lock.held_us)),
        );
    }
    if let Some(at) = &record.position {
        let gtid = at
            .gtid
            .as_ref()
            .map(|gtid| format!("  gtid {gtid}"))
            .unwrap_or_default();
        line("position", format!("{}{gtid}", position(at)));
    }
    for channel in &record.replica {
        let at = format_args!("{}:{}", channel.file, channel.position).to_string();
        line(
            "replica",
            format!("of {}:{} at {at}", channel.source_host, channel.source_port),
        );
    }
    for snapshot in held.snapshots() {
        let volume = &snapshot.volume;
        line(
            "snapshot",
            format!("{} of {}: {}", word(&volume.provider), volume.source, snapshot.name),
        );
    }
    let mut snapshots = set.held.snapshots();
    let bytes = match set.bytes {
        Some(bytes) => Bytes::b(bytes).to_string(),
        None if snapshots.any(|snapshot| snapshot.volume.provider == ProviderKind::Btrfs) => {
            "an unknown space (`snapback snapshot show --space` measures it)".to_owned()
        }
        None => "an unknown space".to_owned(),
    };
    line("holds", format!("{bytes}; storage full to {}", full(set)));
    match held.expires {
        Some(at) => line("expires", time(at)),
        None => line("expires", "never".to_owned()),
    }
}

fn details(set: &Status) {
    let held = &set.held;
    let trees = held.trees.iter().map(|tree| {
        let volume = held.volumes.get(tree.volume);
        let on = volume
            .map(|volume| volume.snapshot.volume.source.clone())
            .unwrap_or_default();
        vec![tree.root.path.display().to_string(), word(&tree.root.role), on]
    });
    output::line(output::bold("trees"));
    output::line(output::table(&[], trees.collect()));
    for transaction in &held.record.prepared_xa {
        output::line(format_args!("prepared XA transaction: {transaction}"));
    }
    let warnings = held.record.warnings.iter().chain(&set.findings);
    warnings.for_each(|finding| output::line(output::finding(finding)));
    let lines = timeline::lines(&held.record.phases, held.record.lock.as_ref());
    lines.iter().for_each(output::line);
}

/// The id of the set that a person named.
pub(super) fn chosen(context: &Context<'_>, name: &str) -> Result<(crate::config::Config, crate::units::Id)> {
    let config = context.config()?;
    let id = held::choose(&config.state_dir, name)?.id;
    Ok((config, id))
}
