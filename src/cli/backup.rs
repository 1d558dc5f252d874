//! `snapback backup`.

use serde_json::json;

use super::arguments::Backup;
use super::{Context, Exit, forget, output, show, timeline};
use crate::Result;
use crate::backup::{Outcome, Request, backup, open_repository};

pub(super) fn run(arguments: &Backup, context: &Context<'_>) -> Result<Exit> {
    let mut config = context.config()?;
    config.host = arguments.host.clone().or(config.host);
    config.copy.bandwidth = arguments.bandwidth.or(config.copy.bandwidth);
    config.copy.workers = arguments.workers.unwrap_or(config.copy.workers);
    arguments.checksums.apply(&mut config);
    arguments.examine.apply(&mut config)?;
    let forgets = arguments.forget || config.retention.after_backup;
    if forgets && config.retention.is_empty() {
        return Err(crate::Error::usage(
            "--forget needs rules that keep something: set `retention:` in the configuration",
        ));
    }
    let request = Request {
        tags: arguments.tag.iter().cloned().collect(),
    };
    let outcome = backup(&config, &request, &context.progress, context.cancel)?;
    let forgotten = if forgets {
        forget::after_backup(&config, &open_repository(&config)?, context)?
    } else {
        None
    };
    if context.global.json {
        let mut json = as_json(&outcome);
        if let Some(report) = &forgotten {
            json["forgotten"] = json!(report.forgotten);
        }
        output::json(&json)?;
    } else {
        show::summary(&outcome.manifest, &outcome.record);
        timeline::lines(&outcome.record.phases, outcome.record.lock.as_ref())
            .iter()
            .for_each(output::line);
        forgotten.iter().for_each(forget::print);
    }
    if forgets && forgotten.is_none() {
        return Ok(Exit::Warnings);
    }
    Ok(Exit::after(&outcome.record.warnings))
}

/// The shape that machines rely on (docs/cli.md).
pub(super) fn as_json(outcome: &Outcome) -> serde_json::Value {
    let (manifest, record) = (&outcome.manifest, &outcome.record);
    let lock = record.lock.as_ref().map(|lock| {
        json!({
            "strategy": lock.strategy, "attempts": lock.attempts, "acquire_us": lock.acquire_us, "held_us": lock.held_us,
            "steps": lock.steps,
        })
    });
    json!({
        "id": manifest.id,
        "time": manifest.time,
        "host": manifest.host,
        "tags": manifest.tags,
        "consistency": record.consistency,
        "exact": record.exact,
        "parent": manifest.parent,
        "lock": lock,
        "position": record.position,
        "replica": record.replica,
        "recovery": record.recovery,
        "checksums": record.checksums,
        "volumes": record.volumes,
        "roots": record.roots,
        "phases": record.phases,
        "copy": record.copy,
        "left_out": record.left_out,
        "warnings": record.warnings,
    })
}
