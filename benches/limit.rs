//! The bare limit of a first backup: read every file below a directory in 64 KiB chunks, BLAKE3, zstd level 1, on all processors.
//! Nothing is kept. `cargo bench --bench limit -- DIRECTORY` prints seconds, bytes read and bytes after compression.
#![allow(clippy::print_stdout, missing_docs)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

const CHUNK: usize = 64 << 10;
const RANGE: u64 = 64 << 20;

fn main() {
    let Some(directory) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) else {
        println!("limit: no directory was given");
        return;
    };
    let mut files = Vec::new();
    list(Path::new(&directory), &mut files);
    let ranges: Vec<(&PathBuf, u64, u64)> = files
        .iter()
        .flat_map(|(path, size)| (0..size.div_ceil(RANGE)).map(move |index| (path, index * RANGE, *size)))
        .collect();
    let (next, read, stored) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
                let (mut buffer, mut out) = (vec![0; 1 << 20], Vec::with_capacity(2 * CHUNK));
                while let Some((path, start, size)) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Ok(file) = File::open(path) else { continue };
                    let mut at = *start;
                    while at < (*start + RANGE).min(*size) {
                        let Ok(got @ 1..) = file.read_at(&mut buffer, at) else {
                            break;
                        };
                        for chunk in buffer[..got].chunks(CHUNK) {
                            if chunk.iter().all(|byte| *byte == 0) {
                                continue;
                            }
                            std::hint::black_box(blake3::hash(chunk));
                            out.clear();
                            compressor.compress_to_buffer(chunk, &mut out).unwrap();
                            stored.fetch_add(out.len() as u64, Ordering::Relaxed);
                        }
                        read.fetch_add(got as u64, Ordering::Relaxed);
                        at += got as u64;
                    }
                }
            });
        }
    });
    println!(
        "{:.2} {} {}",
        begun.elapsed().as_secs_f64(),
        read.into_inner(),
        stored.into_inner()
    );
}

fn list(directory: &Path, files: &mut Vec<(PathBuf, u64)>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(found) if found.is_dir() => list(&entry.path(), files),
            Ok(found) if found.is_file() => files.push((entry.path(), found.len())),
            _ => {}
        }
    }
}
