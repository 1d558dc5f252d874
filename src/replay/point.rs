//! Points in time: how a person says one.

use crate::{Error, Result};

/// A point in a server's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// All that is archived.
    End,
    /// What was committed by then.
    Time(jiff::Timestamp),
    /// A transaction: `domain-server-sequence` or `uuid:number`.
    Gtid(String),
    /// An offset in a log.
    At(String, u64),
}

/// The point, and whether what is there belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The point.
    pub until: Until,
    /// What is at the point is left out.
    pub before: bool,
    /// Where lines of history part: the one with this log (the first digits of its head, as `binlog list` shows it).
    pub line: Option<String>,
    /// Also where the log is not the whole history.
    pub incomplete: bool,
}

impl Asked {
    /// The point, and nothing else.
    pub fn of(until: Until) -> Asked {
        Asked {
            until,
            before: false,
            line: None,
            incomplete: false,
        }
    }
}

/// `end`, a GTID, `FILE:POS`, or a time: RFC 3339, or `2026-11-25 14:03:00` by this host's clock. With `gtid:` in front it is a GTID, whatever it looks like.
///
/// # Errors
/// It is none of these, or a time that this host's clock showed twice or never.
pub fn parse(text: &str) -> Result<Until> {
    parse_in(text, &jiff::tz::TimeZone::system())
}

fn parse_in(text: &str, zone: &jiff::tz::TimeZone) -> Result<Until> {
    let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    if text == "end" {
        return Ok(Until::End);
    }
    if let Some(gtid) = text.strip_prefix("gtid:") {
        return Ok(Until::Gtid(gtid.to_ascii_lowercase()));
    }
    if let Some((file, position)) = text.rsplit_once(':') {
        let is_log = file
            .rsplit_once('.')
            .is_some_and(|(base, number)| !base.is_empty() && digits(number));
        if let (true, Ok(position)) = (is_log, position.parse()) {
            return Ok(Until::At(file.to_owned(), position));
        }
        // `uuid:number`, or with a tag between them.
        let uuid = file.split(':').next().unwrap_or(file);
        if uuid.len() == 36 && uuid.chars().all(|c| c.is_ascii_hexdigit() || c == '-') && digits(position) {
            return Ok(Until::Gtid(text.to_ascii_lowercase()));
        }
    }
    let parts: Vec<&str> = text.split('-').collect();
    let is_date = || parts.iter().map(|part| part.len()).eq([4, 2, 2]);
    if parts.len() == 3 && parts.iter().all(|part| digits(part)) && !is_date() {
        return Ok(Until::Gtid(text.to_owned()));
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(Until::Time(time));
    }
    let Ok(local) = text.parse::<jiff::civil::DateTime>() else {
        return Err(Error::usage(format!(
            "`{text}` is no point in time: a time (2026-11-25T14:03:00Z, '2026-11-25 14:03:00'), FILE:POS (binlog.000007:4711), a GTID, or `end`"
        )));
    };
    let here = zone.to_ambiguous_timestamp(local);
    here.unambiguous().map(Until::Time).map_err(|error| {
        let (earlier, later) = (here.earlier(), here.later());
        Error::usage(match (here.offset(), earlier, later) {
            (jiff::tz::AmbiguousOffset::Fold { .. }, Ok(first), Ok(second)) => {
                format!("this host's clock showed {local} twice: say {first} or {second}")
            }
            (jiff::tz::AmbiguousOffset::Gap { .. }, ..) => {
                format!("this host's clock never showed {local}: it was put forward over it; say a time in UTC, as 2026-11-25T14:03:00Z")
            }
            _ => format!("`{text}` is no time: {error}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_told_apart() {
        let of = |text: &str| parse(text).unwrap();
        assert_eq!(of("end"), Until::End);
        assert_eq!(of("binlog.000007:4711"), Until::At("binlog.000007".to_owned(), 4711));
        assert_eq!(of("0-1-77"), Until::Gtid("0-1-77".to_owned()));
        let uuid = "3E11FA47-71CA-11E1-9E33-C80AA9429562:23";
        assert_eq!(of(uuid), Until::Gtid(uuid.to_lowercase()));
        assert_eq!(
            of("2026-11-25T14:03:00Z"),
            Until::Time("2026-11-25T14:03:00Z".parse().unwrap())
        );
        let tagged = "3e11fa47-71ca-11e1-9e33-c80aa9429562:blue:23";
        assert_eq!(of(tagged), Until::Gtid(tagged.to_owned()));
        assert!(matches!(of("2026-11-25 14:03:00"), Until::Time(_)));
        assert!(matches!(of("2026-11-25"), Until::Time(_)));
        assert_eq!(of("2026-1-5"), Until::Gtid("2026-1-5".to_owned()));
        assert_eq!(of("gtid:2026-11-25"), Until::Gtid("2026-11-25".to_owned()));
        assert!(parse("yesterday").is_err());
    }

    #[test]
    fn a_time_that_a_clock_showed_twice_or_never_is_asked_for_again() {
        // As in central Europe, without a database of zones.
        let zone = jiff::tz::TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let of = |text: &str| parse_in(text, &zone).map_err(|error| error.to_string());
        assert_eq!(
            of("2026-11-25 14:03:00"),
            Ok(Until::Time("2026-11-25T13:03:00Z".parse().unwrap()))
        );
        let twice = of("2026-10-25 02:30:00").unwrap_err();
        assert!(
            twice.contains("2026-10-25T00:30:00Z or 2026-10-25T01:30:00Z"),
            "{twice}"
        );
        assert!(of("2026-03-29 02:30:00").unwrap_err().contains("never showed"));
    }
}
