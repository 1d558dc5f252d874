//! Writers that a lock holds back, as a server's clients are held back.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;

const BLOCK: usize = 4096;
const BLOCKS: u64 = 64;

/// One writer per file. Each goes round the blocks of its file and writes the number of the write into them.
pub struct Writers {
    gate: Arc<RwLock<()>>,
    ended: Arc<AtomicBool>,
    written: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    pub fn start(files: &[PathBuf]) -> Writers {
        let (gate, ended) = (Arc::new(RwLock::new(())), Arc::new(AtomicBool::new(false)));
        let written: Vec<Arc<AtomicU64>> = files
            .iter()
            .map(|file| Arc::new(AtomicU64::new(newest(file))))
            .collect();
        let threads = files.iter().zip(&written).enumerate().map(|(at, (file, written))| {
            // A server's logs are synced at each commit; its tables are not.
            let sync_each = if at % 2 == 0 { 1 } else { 50 };
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(file)
                .unwrap();
            let (gate, ended, written) = (gate.clone(), ended.clone(), written.clone());
            std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    let _open = gate.read().unwrap();
                    let number = written.load(Ordering::Relaxed) + 1;
                    let block = number.to_le_bytes().repeat(BLOCK / 8);
                    file.write_all_at(&block, number % BLOCKS * BLOCK as u64).unwrap();
                    written.store(number, Ordering::Relaxed);
                    if number % sync_each == 0 {
                        file.sync_data().unwrap();
                    }
                }
            })
        });
        let threads = threads.collect();
        Writers {
            gate,
            ended,
            written,
            threads,
        }
    }

    /// Does `work` while nobody writes; returns the number of each file's last write before it.
    pub fn held(&self, work: impl FnOnce()) -> Vec<u64> {
        let closed = self.gate.write().unwrap();
        let written = self
            .written
            .iter()
            .map(|number| number.load(Ordering::Relaxed))
            .collect();
        work();
        drop(closed);
        written
    }

    pub fn stop(self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// The number of the newest write in a file; 0 when there is none. Panics at a block that is not one write's.
pub fn newest(file: &Path) -> u64 {
    let content = std::fs::read(file).unwrap_or_default();
    let blocks = content.chunks(BLOCK).map(|block| {
        let number = u64::from_le_bytes(block[..8].try_into().unwrap());
        assert!(block.chunks(8).all(|word| word == &block[..8]), "a torn block");
        number
    });
    blocks.max().unwrap_or(0)
}
