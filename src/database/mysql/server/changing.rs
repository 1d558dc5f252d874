//! What others change while a run goes on: durability raised again, the grounds of `lockless` looked at again, temporary tables that a log of statements has.

use std::path::PathBuf;

use super::super::attempt::Grip;
use super::super::facts::{self, Variables, facts};
use super::super::position::Reader;
use super::super::{datadir, durability, lockless};
use super::Server;
use crate::database::{Error, QuiesceContext, Result};
use crate::finding::Finding;
use crate::journal::Setting;

/// Durability that is raised for a run.
pub(super) struct Raising {
    /// `lock.raise_durability`, and the server has not refused.
    pub(super) allowed: bool,
    /// What is to be put back.
    pub(super) setting: Option<Setting>,
}

impl Server {
    /// Before another attempt. An account that may not do it gets the weaker promise, which the attempt finds words for.
    pub(super) fn raise_again(&mut self, raising: &mut Raising, context: &QuiesceContext<'_>) -> crate::Result<()> {
        if !raising.allowed || !self.dialect.is_mariadb() {
            return Ok(());
        }
        match durability::raise_again(&mut self.admin, context.journal, &self.same, &mut raising.setting) {
            Err(crate::Error::Database(Error::Statement { code: 1.., .. })) => raising.allowed = false,
            answer => answer?,
        }
        Ok(())
    }

    /// What of the preconditions of `lockless` does not hold now.
    fn lockless_unmet(&mut self) -> Result<Vec<lockless::Unmet>> {
        self.revive()?;
        self.same.judge(&self.same.watch().read(&mut self.admin)?)?;
        let variables = Variables::read(&mut self.admin)?;
        let mut facts = facts(&variables, &self.same.options.address())?;
        facts.variables.extend(facts::engine_libraries(&mut self.admin));
        let others = datadir::scan(&self.facts.datadir)?.other_engines;
        let sequences = lockless::sequences(&mut self.admin, self.dialect)?;
        Ok(lockless::unmet(&facts, &variables, self.dialect, &others, sequences))
    }

    /// A finding for each of them, and for a server that does not tell: the position counts only when there is none before the snapshot and none after it.
    pub(in crate::database::mysql) fn lockless_changes(&mut self) -> Vec<Finding> {
        match self.lockless_unmet() {
            Ok(unmet) => unmet.into_iter().map(lockless::changed).collect(),
            Err(error) => {
                let message = format!(
                    "what the position stands on could not be seen at the snapshot, so it is not exact: {error}"
                );
                vec![Finding::warning("lockless-unseen", message)]
            }
        }
    }

    /// The directory of the binary log, where it may tell of open temporary tables. Those of an applier kept the lock from being taken.
    pub(super) fn temporary_in(&self, grip: &Grip, reader: &Reader) -> Option<PathBuf> {
        let may = !reader.is_replica() && grip.reading.grounds.logs_temporary_tables(self.dialect);
        let base = self.variables.get("log_bin_basename").filter(|_| may)?;
        Some(self.facts.datadir.join(base).parent()?.to_path_buf())
    }
}
