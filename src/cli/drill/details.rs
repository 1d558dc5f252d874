//! A verdict for people.

use super::coloured;
use crate::cli::{output, show};
use crate::drill::{self, Outcome, Verdict};
use crate::repository::Drill;
use crate::units::Bytes;

pub(super) fn print(drill: &Drill) {
    let Some(verdict) = drill::verdict_of(drill) else {
        return;
    };
    output::line(format_args!(
        "drill of {}: {}",
        output::bold(drill.backup.short()),
        coloured(verdict.result)
    ));
    details(&verdict);
}

pub(super) fn details(verdict: &Verdict) {
    let line = |name: &str, text: String| output::line(format_args!("  {name:<9} {text}"));
    let seconds = &verdict.seconds;
    line(
        "server",
        format!(
            "{} {} ({})",
            show::flavour(verdict.server.flavour),
            verdict.server.version,
            verdict.server.program.display()
        ),
    );
    line(
        "took",
        format!(
            "restore {:.1} s ({}), boot {:.1} s, checks {:.1} s, shutdown {:.1} s",
            seconds.restore,
            Bytes::b(verdict.bytes),
            seconds.boot,
            seconds.check,
            seconds.shutdown
        ),
    );
    if seconds.boot > 0.0 {
        let how = match (verdict.recovery.crash_recovery, verdict.recovery.lsn) {
            (true, Some(lsn)) => format!("InnoDB recovered up to LSN {lsn}"),
            (true, None) => "InnoDB recovered".to_owned(),
            (false, _) => "none was needed".to_owned(),
        };
        line("recovery", how);
    }
    if let Some(position) = &verdict.position {
        let agreement = match (position.agrees, position.promised) {
            (true, _) => "as recorded".to_owned(),
            (false, promised) => format!(
                "recorded was {}:{}{}",
                position.recorded.file,
                position.recorded.position,
                if promised {
                    ""
                } else {
                    ", which was not promised to be exact"
                }
            ),
        };
        line(
            "position",
            format!("{}:{}, {agreement}", position.found.file, position.found.position),
        );
    }
    tables(verdict);
    if let Some(sums) = &verdict.checksums {
        line("checksums", format!("{} of {} as recorded", sums.agree, sums.recorded));
    }
    for reason in &verdict.reasons {
        let reason = match verdict.result {
            Outcome::Failed => output::red(reason),
            _ => output::yellow(reason),
        };
        output::line(format_args!("  {reason}"));
    }
}

fn tables(verdict: &Verdict) {
    let tables = &verdict.tables;
    if tables.checked == 0 {
        return;
    }
    let engines = tables.engines.iter().map(|(engine, counts)| {
        let bad = counts.errors + counts.unchecked;
        let all = counts.ok + counts.unsupported + counts.warnings + bad;
        match (bad, counts.warnings) {
            (0, 0) => format!("{all} {engine}"),
            (0, warnings) => format!("{all} {engine} ({warnings} with warnings)"),
            (bad, _) => format!("{all} {engine} ({bad} bad)"),
        }
    });
    let engines: Vec<String> = engines.collect();
    output::line(format_args!(
        "  {:<9} {}: {}",
        "tables",
        tables.checked,
        engines.join(", ")
    ));
    for named in &tables.named {
        let messages = if named.messages.is_empty() {
            String::new()
        } else {
            format!(": {}", named.messages.join("; "))
        };
        output::line(format_args!(
            "    {} {} ({}){messages}",
            show::word(&named.verdict),
            output::bold(&named.table),
            named.engine
        ));
    }
    if tables.more > 0 {
        output::line(format_args!("    and {} more", tables.more));
    }
}
