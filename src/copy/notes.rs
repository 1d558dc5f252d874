//! What a copy has to tell besides its data: what was left out, what vanished, what changed. Bounded, whatever the trees hold.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::finding::{Finding, Severity};
use crate::monitor::Monitor;
use crate::record::LeftOut;

/// Paths listed as left out, per reason; more are only counted.
const LEFT_OUT: usize = 100;
/// Findings with the same code; more are only counted.
const FINDINGS: usize = 20;

/// Collected by all threads of a copy or a restore.
pub struct Notes<'m> {
    monitor: &'m dyn Monitor,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    left_out: BTreeMap<String, (Vec<PathBuf>, u64)>,
    findings: BTreeMap<String, (Vec<Finding>, u64)>,
}

impl<'m> Notes<'m> {
    /// Nothing noted yet; the monitor hears findings as they come.
    pub fn new(monitor: &'m dyn Monitor) -> Notes<'m> {
        Notes {
            monitor,
            inner: Mutex::default(),
        }
    }

    /// Something is left out on purpose.
    pub fn leave_out(&self, path: PathBuf, reason: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (paths, more) = inner.left_out.entry(reason.to_owned()).or_default();
        if paths.len() < LEFT_OUT {
            paths.push(path);
        } else {
            *more += 1;
        }
    }

    /// A person may want, or has, to know this.
    pub fn find(&self, finding: Finding) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (findings, more) = inner.findings.entry(finding.code.clone()).or_default();
        if findings.len() < FINDINGS {
            self.monitor.finding(&finding);
            findings.push(finding);
        } else {
            *more += 1;
        }
    }

    /// The same, but only the first of its code.
    pub fn once(&self, code: &str, finding: impl FnOnce() -> Finding) {
        let known = self
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .findings
            .contains_key(code);
        if !known {
            self.find(finding());
        }
    }

    /// Everything, the gravest findings first.
    pub fn into_lists(self) -> (Vec<LeftOut>, Vec<Finding>) {
        let inner = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut left_out = Vec::new();
        for (reason, (paths, more)) in inner.left_out {
            let listed = |path| LeftOut {
                path,
                reason: reason.clone(),
            };
            left_out.extend(paths.into_iter().map(listed));
            if let (Some(last), 1..) = (left_out.last().cloned(), more) {
                let reason = format!("{reason}; {more} more like it are left out and not listed");
                left_out.push(LeftOut { reason, ..last });
            }
        }
        let mut findings = Vec::new();
        for (mut found, more) in inner.findings.into_values() {
            if let (Some(last), 1..) = (found.last_mut(), more) {
                last.message = format!("{}; and {more} more like it", last.message);
            }
            findings.append(&mut found);
        }
        findings.sort_by_key(|finding: &Finding| std::cmp::Reverse::<Severity>(finding.severity));
        (left_out, findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;

    #[test]
    fn lists_are_bounded_and_say_so() {
        let notes = Notes::new(&Silent);
        for number in 0..1000 {
            notes.leave_out(PathBuf::from(format!("/{number}")), "socket");
            notes.find(Finding::note("vanished", format!("{number}")));
        }
        notes.find(Finding::warning("torn", "t"));
        let (left_out, findings) = notes.into_lists();
        assert_eq!(left_out.len(), LEFT_OUT + 1);
        assert!(left_out[LEFT_OUT].reason.contains("900 more"), "{left_out:?}");
        assert_eq!(findings.len(), FINDINGS + 1);
        assert_eq!(findings[0].code, "torn");
        assert!(findings[FINDINGS].message.contains("980 more"));
    }
}
