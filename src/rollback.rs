//! Back to a held set: every volume of it, or none.
//!
//! The path: [`plan`] (what comes back, what is lost, what forbids it), copies of the held snapshots are made, the server is stopped, its volumes
//! are unmounted, the names are exchanged, all is mounted again, what was live becomes a held set, the server is started and asked.
//!
//! The datadir's volume gives up its name first and the copy takes it last: in between nothing has that name, and no server can start on a set of which
//! a part is old and a part is new. [`record`] has the step that is next before it is made; [`resume`] finishes or undoes after a death.

mod plan;
mod record;
mod resume;
mod steps;

pub use plan::{Plan, PlannedVolume};
pub use resume::{Resumed, resume_all, unfinished, unfinished_findings};

use serde::Serialize;

use crate::backup::examine;
use crate::backup::run::Run;
use crate::config::Config;
use crate::finding::Finding;
use crate::held;
use crate::hooks::{self, Point};
use crate::monitor::Monitor;
use crate::sys::signal::Cancel;
use crate::units::Id;
use crate::{Error, Result, service, volume};

use record::{Phase, Record};
use steps::Steps;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `latest`, an id, a prefix of one, or a label.
    pub set: String,
    /// Only show what would happen.
    pub dry_run: bool,
    /// Stop the server if it runs, and start it afterwards.
    pub stop_server: bool,
    /// Files on the volumes that do not belong to the set go back as well.
    pub with_files: bool,
    /// What is live may be given up where there is no room to keep it.
    pub without_way_back: bool,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// What was planned.
    pub plan: Plan,
    /// False for a dry run, or when the person said no.
    pub done: bool,
    /// The held set with what was live before; its id is the rollback's. `None` where nothing was done, or it was not kept.
    pub kept: Option<Id>,
    /// The server's version, if it was started.
    pub server: Option<String>,
    /// From the stop of the server (or the first step) until it answers again (or the last step), in microseconds.
    pub down_us: u64,
    /// What a person must read.
    pub findings: Vec<Finding>,
}

/// Rolls back to a held set. `confirm` sees the plan, with the server running still.
///
/// # Errors
/// It is refused, or failed: then the state from before is back, or the error says that `cleanup` brings it back or finishes.
pub fn rollback(
    config: &Config,
    request: &Request,
    monitor: &dyn Monitor,
    cancel: &Cancel,
    confirm: &dyn Fn(&Plan) -> Result<bool>,
) -> Result<Outcome> {
    let set = held::choose(&config.state_dir, &request.set)?;
    if request.dry_run {
        let (plan, _) = plan::plan(config, request, &set, Id::random())?;
        return Ok(Outcome::nothing(plan));
    }
    alone(config)?;
    let mut run = Run::begin(config, monitor, cancel)?;
    let result = begun(config, request, &mut run, confirm);
    match result {
        Ok(mut outcome) => {
            if outcome.done && outcome.plan.uses_up {
                // What it held is live now.
                let gone = crate::snapshot::delete(config, outcome.plan.set);
                let said =
                    |error| Finding::warning("held", format!("the set that is used up is not removed yet: {error}"));
                outcome.findings.extend(gone.err().map(said));
            }
            run.end()?;
            Ok(outcome)
        }
        Err(error) => Err(error.and_rollback(run.end())),
    }
}

fn begun(
    config: &Config,
    request: &Request,
    run: &mut Run<'_>,
    confirm: &dyn Fn(&Plan) -> Result<bool>,
) -> Result<Outcome> {
    let chosen = held::choose(&config.state_dir, &request.set)?;
    let in_use = held::take_for(&config.state_dir, chosen.id, true)?;
    let set = &in_use.held;
    let id = run.id;
    let (plan, swaps) = run.phase("detect", |_| plan::plan(config, request, set, id))?;
    let blockers = examine::blockers(&plan.findings);
    if !blockers.is_empty() {
        return Err(Error::Refused(blockers));
    }
    if !confirm(&plan)? {
        return Ok(Outcome::nothing(plan));
    }
    run.cancel.check()?;
    let facts = |succeeded| hooks::Facts {
        run: id,
        command: "rollback",
        host: set.host.clone(),
        position: set.record.position.as_ref(),
        succeeded,
    };
    hooks::run(&config.hooks, Point::BeforeRollback, &facts(None), run.monitor)?;
    let result = exchange(config, request, run, Record::new(id, set, swaps), plan);
    let said = hooks::run_after(
        &config.hooks,
        Point::AfterRollback,
        &facts(Some(result.is_ok())),
        run.monitor,
    );
    result.map(|mut outcome| {
        outcome.findings.extend(said);
        outcome
    })
}

/// What is recorded from here on is finished or undone.
fn exchange(config: &Config, request: &Request, run: &mut Run<'_>, record: Record, plan: Plan) -> Result<Outcome> {
    let id = record.id;
    let kept = record.swaps.iter().any(|swap| swap.keep);
    record.write(&config.state_dir)?;
    crate::failpoint!("rollback.planned");
    let begun = std::time::Instant::now();
    let providers = providers(config);
    let mut steps = Steps::new(config, &providers, record, run.monitor);
    // Cut short, it would leave the server stopped until somebody runs `cleanup`.
    let cancel = run.cancel.clone();
    cancel
        .critical(|| finish_or_undo(config, request, &mut steps, run))
        .map(|server| {
            // Said again: what was read before a question is forgotten behind it.
            let stay = plan.findings.iter().filter(|finding| finding.code == plan::FILES_STAY);
            let findings = stay.cloned().chain(steps.findings).collect();
            Outcome {
                plan,
                done: true,
                kept: kept.then_some(id),
                server,
                down_us: crate::units::micros(begun.elapsed()),
                findings,
            }
        })
}

/// All of it, or none: from the stop of the server until it runs again.
fn finish_or_undo(
    config: &Config,
    request: &Request,
    steps: &mut Steps<'_>,
    run: &mut Run<'_>,
) -> Result<Option<String>> {
    match forward(config, request, steps, run) {
        Ok(server) => Ok(server),
        // From here on only what is finished is whole: the record stays, cleanup goes on.
        Err(error) if steps.is_past_return() => Err(steps.left_to_do(error)),
        Err(error) => Err(error.and_rollback(steps.undo())),
    }
}

/// Every step in its order.
fn forward(config: &Config, request: &Request, steps: &mut Steps<'_>, run: &mut Run<'_>) -> Result<Option<String>> {
    run.phase("prepare", |_| steps.make())?;
    crate::failpoint!("rollback.made");
    run.phase("stop", |_| steps.stop(request.stop_server))?;
    crate::failpoint!("rollback.stopped");
    run.phase("unmount", |_| steps.unmount())?;
    crate::failpoint!("rollback.unmounted");
    run.phase("exchange", |_| steps.exchange())?;
    run.closing_phase("mount", |_| steps.settle())?;
    steps.data_is_back();
    let server = run.closing_phase("start", |_| steps.start(config))?;
    steps.finish()?;
    Ok(server)
}

impl Outcome {
    fn nothing(plan: Plan) -> Outcome {
        Outcome {
            plan,
            done: false,
            kept: None,
            server: None,
            down_us: 0,
            findings: Vec::new(),
        }
    }
}

/// Refuses beside a rollback that was not finished.
fn alone(config: &Config) -> Result<()> {
    match unfinished(&config.state_dir)?.first() {
        Some(id) => Err(Error::failed(format!(
            "rollback {} was not finished: `snapback cleanup` finishes or undoes it",
            id.short()
        ))),
        None => Ok(()),
    }
}

/// Snapshots that keep what was live are held, and have the size of held ones.
fn providers(config: &Config) -> Vec<Box<dyn volume::Provider>> {
    let mut config = config.clone();
    config.lvm.cow_size = config.lvm.held_cow_size;
    volume::providers(&config)
}

/// How the server of a set is seen to run.
fn server_of(set: &held::Held) -> Option<String> {
    let server = set.record.server.as_ref()?;
    service::running(&server.datadir, &set.record.paths)
}

/// A phase from which only forward is a way.
fn past_return(phase: Phase) -> bool {
    phase >= Phase::Settling
}
