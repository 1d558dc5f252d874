//! Reading again: one input/output error is no verdict. A disk that is reset, a cable, a network filesystem on its way back give some, and read well a moment later.

use std::sync::Arc;
use std::time::Duration;

use super::{Error, Result, Store, Upload};

/// The pauses before each further try.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(20),
    Duration::from_millis(200),
    Duration::from_millis(1000),
];

/// A store whose reads are tried again where they may be better the next time. Writes are not: nobody knows what of them was done.
pub struct Steady(Arc<dyn Store>);

impl Steady {
    /// Reads this one.
    pub fn new(below: Arc<dyn Store>) -> Steady {
        Steady(below)
    }
}

/// Whether the store could not be read for a reason that may be gone the next time: the disk's or the network's, and nothing that the object is.
pub fn may_pass(error: &Error) -> bool {
    const PASSING: [i32; 6] = [
        libc::EIO,
        libc::ETIMEDOUT,
        libc::ESTALE,
        libc::EAGAIN,
        libc::EREMOTEIO,
        libc::ENODATA,
    ];
    let Error::Io { source, .. } = error else { return false };
    source.raw_os_error().is_some_and(|number| PASSING.contains(&number))
}

fn again<T>(mut read: impl FnMut() -> Result<T>) -> Result<T> {
    for pause in PAUSES {
        match read() {
            Err(error) if may_pass(&error) => std::thread::sleep(pause),
            answer => return answer,
        }
    }
    read()
}

impl Store for Steady {
    fn name(&self) -> String {
        self.0.name()
    }

    fn put_new(&self, key: &str) -> Result<Box<dyn Upload>> {
        self.0.put_new(key)
    }

    fn sync(&self) -> Result<()> {
        self.0.sync()
    }

    fn get_range(&self, key: &str, offset: u64, into: &mut [u8]) -> Result<usize> {
        again(|| self.0.get_range(key, offset, into))
    }

    fn size(&self, key: &str) -> Result<u64> {
        again(|| self.0.size(key))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        again(|| self.0.list(prefix))
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.0.delete(key)
    }

    fn clean_leftovers(&self) -> Result<u64> {
        self.0.clean_leftovers()
    }

    fn leftovers(&self) -> Result<u64> {
        self.0.leftovers()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(number: i32) -> Error {
        Error::Io {
            operation: "read",
            key: "packs/x".to_owned(),
            store: "s".to_owned(),
            source: std::io::Error::from_raw_os_error(number),
        }
    }

    #[test]
    fn what_may_pass_is_read_again_and_nothing_else() {
        let tries = |number: i32, good_after: usize| {
            let mut count = 0;
            let answer = again(|| {
                count += 1;
                match count > good_after {
                    true => Ok(()),
                    false => Err(failing(number)),
                }
            });
            (answer.is_ok(), count)
        };
        assert_eq!(tries(libc::EIO, 1), (true, 2));
        assert_eq!(tries(libc::EIO, 3), (true, 4));
        assert_eq!(tries(libc::EIO, 9), (false, 4));
        assert_eq!(tries(libc::EACCES, 1), (false, 1));
        assert_eq!(tries(libc::ENOSPC, 1), (false, 1));
    }
}
