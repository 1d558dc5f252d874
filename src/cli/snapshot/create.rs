//! `snapback snapshot create`.

use clap::Args;

use super::super::arguments::Examine;
use super::super::{Context, Exit, output, timeline};
use super::list;
use crate::snapshot::{self, Request, status};
use crate::{Error, Result};

#[derive(Debug, Args)]
pub(in crate::cli) struct Create {
    #[command(flatten)]
    pub examine: Examine,
    /// What to call it
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    /// Remove it after this time, e.g. 7d or 12h [default: never]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub expires: Option<jiff::SignedDuration>,
}

/// A length of time; a day has 24 hours.
fn span(text: &str) -> std::result::Result<jiff::SignedDuration, String> {
    let span: jiff::Span = text
        .parse()
        .map_err(|error| format!("{error}; write for example 7d or 12h"))?;
    let length = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|error| format!("{error}; write for example 7d or 12h"))?;
    match length.is_positive() {
        true => Ok(length),
        false => Err("it must be more than nothing".to_owned()),
    }
}

pub(super) fn run(arguments: &Create, context: &Context<'_>) -> Result<Exit> {
    let mut config = context.config()?;
    arguments.examine.apply(&mut config)?;
    if arguments.label.as_deref().is_some_and(|label| label.trim().is_empty()) {
        return Err(Error::usage("the label is empty"));
    }
    let request = Request {
        label: arguments.label.clone(),
        keep_for: arguments.expires,
    };
    let held = snapshot::create(&config, &request, &context.progress, context.cancel)?;
    let exit = Exit::after(&held.record.warnings);
    let phases = held.record.phases.clone();
    let lock = held.record.lock.clone();
    let status = status::of(&config, held);
    if context.global.json {
        output::json(&status)?;
    } else {
        list::summary(&status);
        timeline::lines(&phases, lock.as_ref()).iter().for_each(output::line);
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn days_and_hours_are_understood() {
        assert_eq!(span("7d").unwrap().as_hours(), 168);
        assert_eq!(span("1d 12h").unwrap().as_hours(), 36);
        assert_eq!(span("90s").unwrap().as_secs(), 90);
        for text in ["", "7", "0s", "-1d", "soon"] {
            assert!(span(text).is_err(), "{text}");
        }
    }
}
