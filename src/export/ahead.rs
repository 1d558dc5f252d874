//! Reading ahead in a file, in parallel and in order. At most twice as many parts as workers are in memory, of 1 MiB each.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::Result;
use crate::repository::{Backup, Content, Fetcher, Piece, Section};
use crate::sys::signal::Cancel;

/// Plain bytes that one worker reads at once; a multiple of every chunk class.
const PART: usize = 1 << 20;

struct Job {
    section: Arc<Section>,
    pieces: Range<usize>,
    chunk: usize,
    /// Bytes that the section covers.
    covered: usize,
    answer: Sender<Result<Vec<u8>>>,
}

/// Workers that read chunks.
pub(super) struct Ahead<'a> {
    jobs: Sender<Job>,
    waiting: VecDeque<Receiver<Result<Vec<u8>>>>,
    depth: usize,
    fetcher: Fetcher,
    pub cancel: &'a Cancel,
}

impl<'a> Ahead<'a> {
    /// Starts the workers; they end when this is dropped.
    ///
    /// # Errors
    /// A decompressor cannot be made.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        backup: &Backup,
        workers: usize,
        cancel: &'a Cancel,
    ) -> Result<Ahead<'a>> {
        let workers = workers.max(1);
        let (jobs, taken) = bounded::<Job>(2 * workers);
        for _ in 0..workers {
            let (taken, mut fetcher) = (taken.clone(), backup.fetcher()?);
            scope.spawn(move || {
                for job in taken {
                    // A receiver that is gone has failed for another reason.
                    let _ = job.answer.send(read(&mut fetcher, &job));
                }
            });
        }
        Ok(Ahead {
            jobs,
            waiting: VecDeque::new(),
            depth: 2 * workers,
            fetcher: backup.fetcher()?,
            cancel,
        })
    }

    /// A section of a file.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn section(&mut self, content: &Content, index: usize) -> Result<Section> {
        self.cancel.check()?;
        Ok(self
            .fetcher
            .section(&content.sections[index], content.section_chunks(index))?)
    }

    /// Gives the plain bytes of all pieces for which `chosen` holds to `take`, in order.
    ///
    /// # Errors
    /// Something is missing or damaged, or `take` failed; nothing of this file is under way any more.
    pub fn read(
        &mut self,
        content: &Content,
        chosen: impl Fn(&Piece) -> bool,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let answer = self.read_all(content, chosen, take);
        self.waiting.clear();
        answer
    }

    fn read_all(
        &mut self,
        content: &Content,
        chosen: impl Fn(&Piece) -> bool,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        for index in 0..content.sections.len() {
            let section = Arc::new(self.section(content, index)?);
            let most = PART / content.class.bytes();
            let mut at = 0;
            while at < section.pieces.len() {
                let rest = section.pieces[at..].iter().take(most);
                let run = rest.take_while(|piece| chosen(piece)).count();
                if run > 0 {
                    self.ask(&section, at..at + run, content, index)?;
                }
                at += run.max(1);
                while self.waiting.len() > self.depth {
                    self.hand_over(take)?;
                }
            }
        }
        while !self.waiting.is_empty() {
            self.hand_over(take)?;
        }
        Ok(())
    }

    fn ask(&mut self, section: &Arc<Section>, pieces: Range<usize>, content: &Content, index: usize) -> Result<()> {
        let (answer, receiver) = bounded(1);
        let job = Job {
            section: Arc::clone(section),
            pieces,
            chunk: content.class.bytes(),
            covered: content.section_bytes(index) as usize,
            answer,
        };
        // A small file is read here: it is not worth waking a worker.
        if content.size <= PART as u64 {
            let _ = job.answer.send(read(&mut self.fetcher, &job));
        } else if self.jobs.send(job).is_err() {
            return Err(crate::Error::failed("the export's workers are gone"));
        }
        self.waiting.push_back(receiver);
        Ok(())
    }

    fn hand_over(&mut self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.cancel.check()?;
        let Some(receiver) = self.waiting.pop_front() else {
            return Ok(());
        };
        let gone = |_| crate::Error::failed("a worker of the export ended");
        take(&receiver.recv().map_err(gone)??)
    }
}

fn read(fetcher: &mut Fetcher, job: &Job) -> Result<Vec<u8>> {
    let (mut bytes, mut chunk) = (Vec::new(), Vec::new());
    for number in job.pieces.clone() {
        let length = job.chunk.min(job.covered - number * job.chunk);
        fetcher.chunk(&job.section.pieces[number], length, &mut chunk)?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
