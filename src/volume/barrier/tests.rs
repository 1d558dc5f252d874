//! The order of things, with fakes; that it freezes is shown on real storage (tests/privileged/several_volumes.rs).

use super::*;
use crate::units::Id;
use crate::volume::fake::Fake;

const LIMIT: Duration = Duration::from_secs(5);

struct Lab {
    _dir: tempfile::TempDir,
    fakes: Vec<Fake>,
    planned: Vec<Vec<Snapshot>>,
}

impl Lab {
    /// One set for each fake.
    fn new(number: usize, change: impl Fn(Fake) -> Fake) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let mut lab = Lab {
            _dir: tempfile::tempdir().unwrap(),
            fakes: Vec::new(),
            planned: Vec::new(),
        };
        for at in 0..number {
            let top = dir.path().join(format!("volume-{at}"));
            std::fs::create_dir_all(&top).unwrap();
            let fake = change(Fake::new(
                std::slice::from_ref(&top),
                &dir.path().join(format!("snapshots-{at}")),
            ));
            lab.planned
                .push(fake.plan(Id::random(), &[fake.volume(&top)], &[]).unwrap());
            lab.fakes.push(fake);
        }
        lab._dir = dir;
        lab
    }

    fn prepare(&self) -> Result<Barrier<'_>> {
        let sets = self.fakes.iter().zip(&self.planned).map(|(fake, planned)| Set {
            provider: fake,
            planned: planned.clone(),
        });
        Barrier::prepare(sets.collect(), &[], LIMIT, None)
    }

    fn left(&self) -> usize {
        self.fakes.iter().map(|fake| fake.left().len()).sum()
    }

    fn calls(&self, at: usize) -> Vec<&'static str> {
        let calls = self.fakes[at].calls();
        calls.into_iter().filter(|call| *call != "plan").collect()
    }
}

#[test]
fn all_sets_are_prepared_fixed_and_finished() {
    let lab = Lab::new(3, |fake| fake);
    let mut barrier = lab.prepare().unwrap();
    for at in 0..3 {
        assert_eq!(lab.calls(at), ["prepare"]);
    }
    barrier.fix().unwrap();
    let made = Box::new(barrier).finish().unwrap();
    assert_eq!((made.len(), lab.left()), (3, 3));
}

#[test]
fn a_set_whose_vendor_is_busy_is_prepared_once_the_one_before_has_ended() {
    let lab = Lab::new(3, |fake| fake.with_exclusive("group"));
    let mut barrier = lab.prepare().unwrap();
    assert_eq!(lab.calls(0), ["prepare"]);
    assert_eq!(lab.calls(1), [""; 0]);
    barrier.fix().unwrap();
    assert_eq!(lab.calls(0), ["prepare", "fix", "let_end", "let_end"]);
    assert_eq!(lab.calls(1), ["prepare", "fix", "let_end"]);
    assert_eq!(lab.calls(2), ["prepare", "fix"]);
    assert_eq!(Box::new(barrier).finish().unwrap().len(), 3);
}

#[test]
fn a_failure_anywhere_leaves_nothing() {
    for exclusive in [false, true] {
        for method in ["prepare", "fix", "finish"] {
            for at in 0..3 {
                let change = |fake: Fake| if exclusive { fake.with_exclusive("group") } else { fake };
                let lab = Lab::new(3, change);
                lab.fakes[at].fail(method, "broken on purpose");
                let error = match lab.prepare() {
                    Err(error) => error,
                    Ok(mut barrier) => match barrier.fix() {
                        Err(error) => {
                            Box::new(barrier).abandon().unwrap();
                            error
                        }
                        Ok(_) => Box::new(barrier).finish().unwrap_err(),
                    },
                };
                assert!(error.to_string().contains("broken on purpose"), "{error}");
                assert_eq!(lab.left(), 0, "{method} of set {at}, exclusive {exclusive}");
            }
        }
    }
}

#[test]
fn a_set_that_was_given_up_cannot_be_taken() {
    let lab = Lab::new(2, |fake| fake);
    let mut barrier = lab.prepare().unwrap();
    barrier.fix().unwrap();
    assert!(barrier.fix().is_err(), "the instant is one");
}
