//! A live MySQL or MariaDB server as the run sees it.

mod changing;

use std::path::Path;

use changing::Raising;

use super::account::{self, Account};
use super::attempt::{Attempt, Grip};
use super::blockers::{Search, Source};
use super::connect::ConnectOptions;
use super::facts::{self, Variables, dialect, facts};
use super::flavour::Dialect;
use super::grants::Grants;
use super::grounds::{Watch, keeps_pages};
use super::guard::{Guard, pause};
use super::held::{Held, Terms, Unlocked};
use super::peer::{self, Answer};
use super::position::{Reader, replica_findings};
use super::privileges::{self, Intent};
use super::retry::Schedule;
use super::same_server::SameServer;
use super::session::Session;
use super::strategy::{self, Exactness, Sequence};
use super::{binlog, blockers, datadir, durability, lockless, paths, whole_log};
use crate::database::{
    Consistency, Database, Error, Examination, Position, QuiesceContext, QuiescePlan, Quiesced, Result, ServerFacts,
    SettlePoint, Strategy,
};
use crate::finding::{Finding, Severity};
use crate::journal::{Made, Setting};

/// A connected server.
pub struct Server {
    /// How it is reached, and who answers.
    same: SameServer,
    admin: Session,
    variables: Variables,
    facts: ServerFacts,
    dialect: Dialect,
    /// `server.accept_unproved`.
    accept: bool,
    /// Whether files of engines without transactions were seen; unknown before [`Database::examine`].
    other_engines: Option<bool>,
}

/// Connects to the server that the configuration names.
///
/// # Errors
/// [`Error::OptionFile`] or [`Error::Connect`]; or the server does not say what every server says.
pub fn connect(server: &crate::config::Server) -> Result<Box<dyn Database>> {
    Ok(Box::new(Server::connect(server)?))
}

impl Server {
    /// The same, as its own type.
    ///
    /// # Errors
    /// As [`connect`].
    pub fn connect(server: &crate::config::Server) -> Result<Server> {
        let options = ConnectOptions::new(server)?;
        let mut admin = Session::admin(&options)?;
        let variables = Variables::read(&mut admin)?;
        let mut facts = facts(&variables, &options.address())?;
        facts.variables.extend(facts::engine_libraries(&mut admin));
        facts.variables.extend(facts::data_libraries(&mut admin));
        facts.variables.extend(facts::plugin_libraries(&mut admin));
        let watch = Watch::new(&variables, dialect(&facts));
        Ok(Server {
            dialect: dialect(&facts),
            same: SameServer::of(&mut admin, &options, watch, &facts.datadir)?,
            accept: server.accept_unproved,
            admin,
            variables,
            facts,
            other_engines: None,
        })
    }

    /// The SQL that makes an account here.
    pub fn account_sql(&self, account: &Account) -> String {
        account::account_sql_for(self.dialect, account)
    }

    /// Whether an account here can be let in by the user that we run as, over the socket and without a password: MySQL's auth_socket is active. MariaDB's
    /// unix_socket lets in only the account that has the user's own name.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn lets_in_by_socket(&mut self) -> Result<bool> {
        let active =
            "SELECT 1 FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'auth_socket' AND PLUGIN_STATUS = 'ACTIVE'";
        let socket = matches!(self.same.options.target, super::connect::Target::Socket(_));
        Ok(!self.dialect.is_mariadb() && socket && self.admin.value(active)?.is_some())
    }

    /// A connection that the server dropped while nothing was locked may be replaced.
    fn revive(&mut self) -> Result<()> {
        if self.admin.run("SELECT 1").is_err() {
            self.admin = self.same.admin()?;
        }
        Ok(())
    }

    /// Whether the kernel proves that this server works on the datadir that we see at the path which it names.
    pub fn is_proved(&self) -> bool {
        matches!(self.same.answer, Answer::Proved(_))
    }

    fn exactness(&self, plan: &QuiescePlan) -> Exactness {
        strategy::exactness(&self.facts, self.dialect, plan.strategy, plan.raise_durability)
    }

    fn privilege_findings(&mut self, plan: &QuiescePlan) -> Result<Vec<Finding>> {
        let grants = Grants::read(&mut self.admin, self.dialect)?;
        let intent = Intent {
            strategy: plan.strategy,
            on_busy: plan.limits.on_busy,
            raise_durability: self.exactness(plan).raise,
        };
        Ok(privileges::missing(
            &grants,
            &privileges::needs(self.dialect, intent),
            self.dialect,
        ))
    }

    /// What is running right now that a lock would wait for. A note: the run itself looks again and acts on `on_busy`.
    fn traffic_findings(&mut self, plan: &QuiescePlan) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        if strategy::sequence(plan.strategy).is_none() {
            return Ok(findings);
        }
        let source = Source::find(&mut self.admin, self.dialect);
        if !source.sees_table_locks() {
            findings.push(
                Finding::note(
                    "table-locks-unseen",
                    "an idle session that holds LOCK TABLES cannot be seen on this server; the bounded wait protects against it",
                )
                .remedy("INSTALL SONAME 'metadata_lock_info'"),
            );
        }
        let search = Search {
            dialect: self.dialect,
            source,
            strategy: plan.strategy,
            age: plan.limits.blocker_age,
            own: &[],
        };
        for blocker in blockers::find(&mut self.admin, search)? {
            findings.push(Finding::note(
                "in-the-way",
                format!("in the way of the lock now: {blocker}"),
            ));
        }
        Ok(findings)
    }

    fn server_findings(&self, reader: &Reader) -> Vec<Finding> {
        let mut findings = Vec::new();
        if !self.facts.log_bin {
            findings.push(Finding::note(
                "no-binary-log",
                "the server writes no binary log: there is no position to record",
            ));
        }
        if self
            .variables
            .get("innodb_doublewrite")
            .is_some_and(|value| !keeps_pages(value))
        {
            findings.push(
                Finding::warning(
                    "doublewrite-off",
                    "innodb_doublewrite is off: a page torn at the instant of the snapshot cannot be repaired",
                )
                .remedy("switch it on, or be sure that the storage writes whole pages atomically"),
            );
        }
        if self.variables.is_galera() {
            findings.push(
                Finding::warning(
                    "galera",
                    "the server is a Galera node: a lock pauses it; it leaves flow control meanwhile by itself, and catches up afterwards, \
                     when flow control may slow the cluster; the recorded position is its own binary log's",
                )
                .remedy("back up a node that takes no writes"),
            );
        }
        findings.extend(replica_findings(reader, self.workers(), self.commits_in_order()));
        findings
    }

    fn lock(
        &mut self,
        plan: &QuiescePlan,
        sequence: Sequence,
        raising: &mut Raising,
        context: &mut QuiesceContext<'_>,
    ) -> crate::Result<(Grip, Reader, u32)> {
        let reader = Reader::prepare(&mut self.admin, self.dialect, &self.facts, self.same.watch())?;
        let source = Source::find(&mut self.admin, self.dialect);
        let other_engines = match self.other_engines {
            Some(known) => known,
            None => !datadir::scan(&self.facts.datadir)?.other_engines.is_empty(),
        };
        let schedule = match reader.is_replica() && self.commits_in_order() {
            true => Schedule::brief(&plan.limits),
            false => Schedule::plain(&plan.limits),
        };
        let mut tries = 0;
        loop {
            tries += 1;
            if tries > 1 {
                self.raise_again(raising, context)?;
            }
            let guard = Guard {
                dialect: self.dialect,
                source,
                strategy: plan.strategy,
                limits: &schedule.limits,
                reader: &reader,
            };
            let mut attempt = Attempt {
                guard,
                sequence,
                raised: raising.setting.is_some(),
                insist: raising.allowed && schedule.pause_after(tries).is_some(),
                other_engines,
                server: &self.same,
                context: &mut *context,
            };
            let reason = match attempt.run(&mut self.admin) {
                Ok(grip) => return Ok((grip, reader, tries)),
                Err(crate::Error::Database(Error::Busy { reason })) => reason,
                Err(error) => return Err(error),
            };
            let Some((span, speak)) = schedule.pause_after(tries) else {
                return Err(after(tries, reason).into());
            };
            if speak {
                let text = format!("{reason}; attempt {tries}, next in {span:?}");
                context.monitor.message(&text);
                (context.settle)(SettlePoint::Pause)?;
            }
            pause(span, context.cancel)?;
        }
    }

    /// Whether MySQL's applier has several workers that commit in order (the default since 8.0.27).
    fn commits_in_order(&self) -> bool {
        !self.dialect.is_mariadb()
            && ["replica_preserve_commit_order", "slave_preserve_commit_order"]
                .iter()
                .any(|name| self.variables.is_on(name))
            && self.workers() > 1
    }

    fn workers(&self) -> u32 {
        let names = [
            "slave_parallel_threads",
            "replica_parallel_workers",
            "slave_parallel_workers",
        ];
        names.iter().find_map(|name| self.variables.number(name)).unwrap_or(0)
    }

    /// Puts the setting back after a failure, and tells the journal.
    fn put_back(&mut self, setting: Option<&Setting>, context: &QuiesceContext<'_>) -> crate::Result<()> {
        if let Some(setting) = setting {
            self.revive()?;
            durability::restore(&mut self.admin, setting)?;
            context.journal.undone(&Made::Setting(setting.clone()))?;
        }
        Ok(())
    }
}

fn after(attempts: u32, reason: String) -> Error {
    Error::Busy {
        reason: match attempts {
            1 => reason,
            attempts => format!("{reason} ({attempts} attempts)"),
        },
    }
}

impl Database for Server {
    fn facts(&self) -> &ServerFacts {
        &self.facts
    }

    fn examine(&mut self, plan: &QuiescePlan) -> Result<Examination> {
        self.revive()?;
        let address = self.same.options.address();
        let mut findings = peer::findings(self.same.answer, &self.facts, &address, self.accept)?;
        let galera = self.variables.is_galera();
        let (chosen, reason) = strategy::resolve(plan.strategy, plan.consistency, self.dialect, galera)?;
        let plan = QuiescePlan {
            strategy: chosen,
            ..plan.clone()
        };
        let privileges = self.privilege_findings(&plan)?;
        let may_look = privileges.iter().all(|finding| finding.severity != Severity::Blocker);
        findings.extend(privileges);
        let footprint = paths::footprint(&mut self.admin, &self.variables, self.dialect, &self.facts.datadir)?;
        self.other_engines = Some(!footprint.other_engines.is_empty());
        findings.extend(footprint.findings);
        findings.extend(peer::misled(self.same.answer, &footprint.paths));
        findings.extend(datadir::unflushed(plan.consistency, &footprint.other_engines));
        findings.extend(self.exactness(&plan).finding);
        let sequences = match may_look {
            true => lockless::sequences(&mut self.admin, self.dialect)?,
            false => 0,
        };
        let unmet = lockless::unmet(
            &self.facts,
            &self.variables,
            self.dialect,
            &footprint.other_engines,
            sequences,
        );
        let reader = Reader::prepare(&mut self.admin, self.dialect, &self.facts, self.same.watch())?;
        findings.extend(lockless::findings(
            plan.strategy,
            plan.consistency != Consistency::Crash,
            unmet,
            self.dialect,
            reader.is_replica(),
        ));
        findings.extend(self.server_findings(&reader));
        if may_look && self.facts.log_bin {
            let unlogged = whole_log::unlogged(&mut self.admin, self.dialect, &self.variables)?;
            findings.extend(whole_log::finding(&unlogged));
        }
        findings.extend(self.same.watch().read(&mut self.admin)?.no_redo_log());
        if may_look {
            findings.extend(self.traffic_findings(&plan)?);
        }
        Ok(Examination {
            strategy: chosen,
            reason,
            paths: footprint.paths,
            findings,
        })
    }

    fn quiesce<'s>(
        &'s mut self,
        plan: &QuiescePlan,
        mut context: QuiesceContext<'_>,
    ) -> crate::Result<Box<dyn Quiesced + 's>> {
        if plan.strategy == Strategy::Auto {
            return Err(Error::Unsupported("strategy `auto` must be resolved by an examination first".into()).into());
        }
        let Some(sequence) = strategy::sequence(plan.strategy) else {
            (context.settle)(SettlePoint::Before)?;
            context.cancel.check()?;
            let server = (plan.strategy == Strategy::Lockless).then_some(self);
            return Ok(Box::new(Unlocked::new(plan.strategy, context.origin, server)));
        };
        self.revive()?;
        let exactness = self.exactness(plan);
        let setting = match exactness.raise {
            true => {
                let old = self.facts.flush_log_at_trx_commit;
                Some(durability::raise(&mut self.admin, context.journal, &self.same, old)?)
            }
            false => None,
        };
        let mut raising = Raising {
            allowed: plan.raise_durability,
            setting,
        };
        match self.lock(plan, sequence, &mut raising, &mut context) {
            Ok((grip, reader, attempts)) => {
                let terms = Terms {
                    strategy: plan.strategy,
                    sequence,
                    attempts,
                    exact: exactness.exact,
                    setting: raising.setting,
                    temporary_in: self.temporary_in(&grip, &reader),
                };
                let still = self.same.still_under_lock(&grip.session);
                let held = Box::new(Held::new(&mut self.admin, &self.same, grip, reader, terms));
                match still {
                    Ok(()) => Ok(held),
                    Err(error) => Err(crate::Error::from(error).and_rollback(held.abandon().map_err(Into::into))),
                }
            }
            Err(error) => {
                let restored = self.put_back(raising.setting.as_ref(), &context);
                Err(error.and_rollback(restored))
            }
        }
    }

    fn missing_for_commands(&mut self) -> Result<Vec<Finding>> {
        self.revive()?;
        let grants = Grants::read(&mut self.admin, self.dialect)?;
        Ok(account::missing_for_commands(&grants, self.dialect, self.facts.log_bin))
    }

    fn derive_position(&self, binary_log_index: &Path, binary_log_dir: &Path) -> Result<Position> {
        binlog::position(self.dialect.flavour, binary_log_index, binary_log_dir)
    }

    fn log_trace(&self, log: &Path, position: u64) -> Option<String> {
        binlog::trace_at(log, position)
    }
}
