//! `snapback check`.

use clap::Args;

use super::arguments::Examine;
use super::checksums::ChecksumArguments;
use super::{Context, Exit, output};
use crate::Result;
use crate::check::{Plan, check};
use crate::finding::Severity;
use crate::units::Bytes;

/// `check`'s flags.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    examine: Examine,
    #[command(flatten)]
    checksums: ChecksumArguments,
}

pub(super) fn run(arguments: &Check, context: &Context<'_>) -> Result<Exit> {
    let mut config = context.config()?;
    arguments.checksums.apply(&mut config);
    arguments.examine.apply(&mut config)?;
    let plan = check(&config, context.cancel)?;
    if context.global.json {
        output::json(&plan)?;
    } else {
        print(&plan);
    }
    let blocked = plan
        .findings
        .iter()
        .any(|finding| finding.severity == Severity::Blocker);
    Ok(if blocked {
        Exit::Failed
    } else {
        Exit::after(&plan.findings)
    })
}

fn print(plan: &Plan) {
    if let Some(server) = &plan.server {
        let flavour = super::show::flavour(server.flavour);
        output::line(format_args!(
            "{}  {flavour} {} at {}",
            output::bold("server"),
            server.version,
            server.address
        ));
    }
    let strategy = super::show::word(&plan.strategy);
    let level = super::show::word(&plan.consistency);
    output::line(format_args!(
        "{}    {level}, lock strategy {strategy}: {}",
        output::bold("plan"),
        plan.strategy_reason
    ));
    let mut rows = Vec::new();
    for placed in &plan.placed {
        let volume = plan
            .volumes
            .get(placed.volume)
            .map(|volume| volume.source.clone())
            .unwrap_or_default();
        rows.push(vec![
            super::show::word(&placed.role),
            placed.path.display().to_string(),
            volume,
        ]);
    }
    if !rows.is_empty() {
        output::line(output::bold("paths of the server"));
        output::line(output::table(&["what", "where", "volume"], rows));
    }
    let roots = plan.roots.iter().map(|root| {
        vec![
            root.path.display().to_string(),
            super::show::word(&root.role),
            super::show::word(&root.source),
        ]
    });
    output::line(output::bold("what is copied"));
    output::line(output::table(&["root", "role", "read from"], roots.collect()));
    let state = if plan.repository.usable {
        format!("{} backups", plan.repository.backups)
    } else {
        output::red("not usable")
    };
    let room = plan.room.map_or_else(String::new, |room| {
        format!(
            ", {} free; a backup of {} may take up to {}",
            Bytes::b(room.repository_free),
            Bytes::b(room.data),
            Bytes::b(room.expected)
        )
    });
    output::line(format_args!(
        "{}  {} ({state}{room})",
        output::bold("repository"),
        plan.repository.path.display()
    ));
    for finding in &plan.findings {
        output::line(output::finding(finding));
    }
    let blockers = plan
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Blocker)
        .count();
    match blockers {
        0 if plan.findings.iter().any(|finding| finding.code == "repository-room") => {
            output::line(output::yellow("a backup can be begun, and may find too little room"));
        }
        0 => output::line(output::green("a backup can be taken")),
        1 => output::line(output::red("a backup would be refused: 1 blocker")),
        more => output::line(output::red(format_args!("a backup would be refused: {more} blockers"))),
    }
}
