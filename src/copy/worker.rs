//! One worker thread: takes jobs, reads, stores, answers.

use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;

use super::section::{READ, Reading, Source};
use super::stop::Stop;
use super::unreadable::read_error;
use super::walk::{FileJob, Job, Reply};
use super::{CopyOptions, Error, Result, live};
use crate::repository::{SECTION_BYTES, Worker, WorkerFigures, Writer};
use crate::sys;
use crate::sys::fs::ReadBuffer;

/// Works until no job is left.
pub(super) fn work(
    jobs: &Receiver<Job>,
    writer: &Writer,
    options: &CopyOptions,
    reading: &Reading<'_>,
    stop: &Stop<'_>,
) -> Result<WorkerFigures> {
    if options.idle_priority {
        // Best effort: a kernel that refuses changes nothing.
        let _ = sys::priority::idle_io();
        sys::priority::lower_cpu();
    }
    let mut worker = writer.worker()?;
    let mut buffer = ReadBuffer::new(READ);
    for job in jobs {
        stop.check()?;
        let reply = answer(&job, options, &mut worker, reading, &mut buffer)
            .or_else(|error| job.file.leave_out(job.section, job.section + 1, error))?;
        if job.reply.send(reply).is_err() {
            break;
        }
    }
    stop.check()?;
    Ok(worker.close()?)
}

fn answer(
    job: &Job,
    options: &CopyOptions,
    worker: &mut Worker<'_>,
    reading: &Reading<'_>,
    buffer: &mut ReadBuffer,
) -> Result<Reply> {
    let (file, index) = (&job.file, job.section);
    if file.failed.load(Ordering::Acquire) {
        return Ok(Reply::Unreadable {
            from: index,
            to: index + 1,
            reason: String::new(),
        });
    }
    match file.live {
        true => Ok(Reply::Live(live::copy(
            file,
            options.live_attempts,
            worker,
            reading,
            buffer,
        )?)),
        false => section(file, index, worker, reading, buffer),
    }
}

/// One section of a file in a snapshot, where nothing may change: whatever is not as it was seen is damage (trap 32).
fn section(
    job: &FileJob,
    index: usize,
    worker: &mut Worker<'_>,
    reading: &Reading<'_>,
    buffer: &mut ReadBuffer,
) -> Result<Reply> {
    let start = index as u64 * SECTION_BYTES;
    let wrong = |offset: u64, reason: String| Error::Read {
        path: job.original.clone(),
        offset,
        reason,
    };
    let opened = job
        .place
        .open(&job.relative)
        .and_then(|file| Ok((file.metadata()?, file)));
    let (found, file) = opened.map_err(|error| read_error(&job.original, start, error))?;
    if std::os::unix::fs::MetadataExt::ino(&found) != job.inode || found.len() != job.size {
        return Err(wrong(
            start,
            format!(
                "it has {} bytes where {} were seen: the snapshot is changing under us",
                found.len(),
                job.size
            ),
        ));
    }
    let parent = job
        .parent
        .as_ref()
        .and_then(|parent| Some((parent.sections.get(index)?, parent.section_chunks(index))));
    let mut builder = worker.section(job.class, parent)?;
    // The pages of a snapshot are its own: nobody but us would ever find them in the page cache.
    let source = Source {
        file: &file,
        original: &job.original,
        size: job.size,
        holes: job.may_have_holes,
        direct: sys::fs::read_directly(&file),
    };
    let ended = reading.section(&source, index, job.class, buffer, &mut builder)?;
    let expected = (job.size - start).min(SECTION_BYTES);
    if ended.bytes != expected {
        let reason = format!(
            "the file ends here, {} bytes too early: the snapshot is damaged",
            expected - ended.bytes
        );
        return Err(wrong(start + ended.bytes, reason));
    }
    let reply = Reply::Section {
        index,
        section: builder.finish()?,
        sparse: ended.sparse,
    };
    // Where it could not be read around the page cache, that is freed behind the reader.
    sys::fs::forget_cached(&file, start, SECTION_BYTES);
    Ok(reply)
}
