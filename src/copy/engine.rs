//! The threads of a copy: one walks, several read and store, one watches the snapshot, the caller's collects.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::notes::Notes;
use super::parent::Parent;
use super::section::Reading;
use super::stop::Stop;
use super::throttle::Throttle;
use super::walk::Walk;
use super::{CopyOptions, CopyReport, Result, Tree, collect, estimate, worker};
use crate::monitor::{Monitor, Work};
use crate::repository::{WorkerFigures, Writer};
use crate::sys::signal::Cancel;

/// How often the snapshots' health is asked for.
const HEALTH: Duration = Duration::from_secs(2);
/// Entries that may wait to be written into the table.
const AHEAD: usize = 1024;

pub(super) fn run(
    trees: &[Tree],
    writer: &Writer,
    options: &CopyOptions,
    health: &(dyn Fn() -> Result<()> + Sync),
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<CopyReport> {
    let begun = Instant::now();
    let notes = Notes::new(monitor);
    let stop = Stop::new(cancel);
    let throttle = Throttle::new(options.bandwidth, Arc::clone(&options.hurry));
    let read = AtomicU64::new(0);
    let reading = Reading {
        stop: &stop,
        throttle: &throttle,
        read: &read,
        monitor,
    };
    let total: Mutex<WorkerFigures> = Mutex::default();
    let over = AtomicBool::new(false);

    monitor.begin(Work {
        name: "copying",
        bytes: 0,
        items: 0,
    });
    let collected = std::thread::scope(|scope| {
        let (item_sender, items) = crossbeam_channel::bounded(AHEAD);
        let (job_sender, jobs) = crossbeam_channel::bounded(2 * options.workers.max(1));
        let (stop, notes, reading, total, over) = (&stop, &notes, &reading, &total, &over);
        scope.spawn(move || {
            let walk = Walk {
                options,
                notes,
                stop,
                parent: Parent::of(writer, notes),
                items: item_sender,
                jobs: job_sender,
                links: HashMap::new(),
                open: Vec::new(),
            };
            stop.guard(|| walk.run(trees));
        });
        let workers: Vec<_> = (0..options.workers.max(1))
            .map(|_| {
                let jobs = jobs.clone();
                scope.spawn(move || {
                    if let Some(figures) = stop.guard(|| worker::work(&jobs, writer, options, reading, stop)) {
                        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                        total.bytes_new += figures.bytes_new;
                        total.bytes_stored += figures.bytes_stored;
                    }
                })
            })
            .collect();
        // Ours would keep the channel open when every worker has ended.
        drop(jobs);
        scope.spawn(move || watch(health, stop, over));
        scope.spawn(move || estimate::estimate(trees, monitor, stop));

        let collected = stop.guard(|| collect::collect(&items, trees, writer.table()?, notes, monitor));
        drop(items);
        let panicked = workers.into_iter().filter_map(|worker| worker.join().err()).next();
        over.store(true, Ordering::Release);
        if let Some(panic) = panicked {
            std::panic::resume_unwind(panic);
        }
        collected
    });
    monitor.end();
    if let Err(cause) = stop.cause() {
        // A read error on a snapshot that is lost says less than its loss.
        return Err(match (&cause, health()) {
            (super::Error::Interrupted(_), _) | (_, Ok(())) => cause,
            (_, Err(lost)) => lost,
        });
    }
    cancel
        .check()
        .map_err(|_| super::Error::Interrupted(cancel.asked().unwrap_or_default()))?;
    // Asked once more at the end: what was read from a snapshot that is lost by now proves nothing.
    health()?;

    let mut figures = collected.map(|collected| collected.figures).unwrap_or_default();
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    figures.bytes_read = read.load(Ordering::Relaxed);
    figures.bytes_new = total.bytes_new;
    figures.bytes_stored = total.bytes_stored;
    figures.seconds = begun.elapsed().as_secs_f64();
    let (left_out, findings) = notes.into_lists();
    Ok(CopyReport {
        figures,
        left_out,
        findings,
    })
}

/// Ends the copy when a snapshot is lost.
fn watch(health: &(dyn Fn() -> Result<()> + Sync), stop: &Stop<'_>, over: &AtomicBool) {
    let mut asked = Instant::now();
    while !over.load(Ordering::Acquire) && stop.check().is_ok() {
        if asked.elapsed() >= HEALTH {
            stop.guard(health);
            asked = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
