//! `snapback list`.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use super::arguments::List;
use super::{Context, Exit, drill, output, show};
use crate::Result;
use crate::backup::open_repository;
use crate::job::{groups, is_ahead};
use crate::repository::Manifest;
use crate::units::{Bytes, Id};

pub(super) fn run(arguments: &List, context: &Context<'_>) -> Result<Exit> {
    let repository = open_repository(&context.config()?)?;
    let mut exit = Exit::Done;
    let mut all = Vec::new();
    for listed in repository.list()? {
        match listed.manifest {
            Ok(manifest) => all.push(manifest),
            Err(error) => {
                output::error(&error.into());
                exit = Exit::Damaged;
            }
        }
    }
    let jobs = jobs(&all);
    let of_job = |manifest: &Manifest| match &arguments.job {
        Some(wanted) => jobs.get(&manifest.id).is_some_and(|job| job.starts_with(wanted)),
        None => true,
    };
    let manifests: Vec<&Manifest> = all
        .iter()
        .filter(|manifest| wanted(manifest, arguments) && of_job(manifest))
        .collect();
    let now = jiff::Timestamp::now();
    let drills = drill::last(&repository)?;
    let held: HashSet<Id> = repository.holds()?.into_iter().map(|hold| hold.backup).collect();
    let damaged: HashSet<Id> = repository.losses()?.into_iter().map(|loss| loss.backup).collect();
    if context.global.json {
        let as_json = |manifest: &&Manifest| {
            let mut json = as_json(manifest, &drills);
            json["job"] = json!(jobs.get(&manifest.id));
            json["held"] = json!(held.contains(&manifest.id));
            json["damaged"] = json!(damaged.contains(&manifest.id));
            json
        };
        output::json(&manifests.iter().map(as_json).collect::<Vec<_>>())?;
    } else if manifests.is_empty() {
        output::say("no backups");
    } else {
        let rows = manifests.iter().map(|manifest| {
            let mut row = row(manifest, &drills);
            row.insert(3, jobs.get(&manifest.id).cloned().unwrap_or_default());
            let notes = [
                (held.contains(&manifest.id), "held"),
                (damaged.contains(&manifest.id), "damaged"),
                (is_ahead(manifest.time, now), "time ahead"),
            ];
            let notes = notes.iter().filter(|(is, _)| *is).map(|(_, word)| *word);
            row.push(notes.collect::<Vec<_>>().join(" "));
            row
        });
        output::line(output::table(
            &[
                "id",
                "time (UTC)",
                "host",
                "job",
                "promise",
                "size",
                "stored",
                "drill",
                "tags",
                "notes",
            ],
            rows.collect(),
        ));
    }
    Ok(exit)
}

/// Each backup's job: the short form of what its job's newest backup says.
fn jobs(manifests: &[Manifest]) -> HashMap<Id, String> {
    let groups = groups(manifests);
    let named = groups.iter().flat_map(|group| {
        let job = group.job().short();
        group.members.iter().map(move |one| (one.manifest.id, job.clone()))
    });
    named.collect()
}

fn wanted(manifest: &Manifest, arguments: &List) -> bool {
    arguments.host.as_ref().is_none_or(|host| *host == manifest.host)
        && arguments
            .tag
            .iter()
            .all(|(key, value)| manifest.tags.get(key) == Some(value))
}

fn row(manifest: &Manifest, drills: &drill::Last) -> Vec<String> {
    let tags: Vec<String> = manifest
        .tags
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    vec![
        manifest.id.short(),
        show::time(manifest.time),
        manifest.host.clone(),
        manifest.record.brief().consistency.unwrap_or_else(|| "?".to_owned()),
        Bytes::b(manifest.sizes.bytes).to_string(),
        Bytes::b(manifest.sizes.stored).to_string(),
        drill::cell(drills.get(&manifest.id)),
        tags.join(" "),
    ]
}

fn as_json(manifest: &Manifest, drills: &drill::Last) -> serde_json::Value {
    let brief = manifest.record.brief();
    json!({
        "id": manifest.id,
        "time": manifest.time,
        "consistency": brief.consistency,
        "exact": brief.exact,
        "host": manifest.host,
        "tags": manifest.tags,
        "bytes": manifest.sizes.bytes,
        "stored": manifest.sizes.stored,
        "drill": drills.get(&manifest.id).map(drill::brief),
    })
}
