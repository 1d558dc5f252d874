//! Random sequences of change, backup, forget, prune and time, checked against what each backup must give back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;
use snapback::repository::Manifest;

use super::scene::Scene;
use super::stored;

#[derive(Debug, Clone)]
enum Act {
    /// Rewrites chunks `from..to` of the file with a new seed.
    Change(u64, u64, u64),
    BackUp,
    /// Forgets the n-th backup, but never the last one.
    Forget(usize),
    Prune,
    Hours(i64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (0u64..12, 0u64..12, 0u64..40).prop_map(|(from, length, seed)| Act::Change(from, (from + length).min(12), seed)),
        4 => Just(Act::BackUp),
        3 => (0usize..4).prop_map(Act::Forget),
        4 => Just(Act::Prune),
        2 => (1i64..30).prop_map(Act::Hours),
    ];
    proptest::collection::vec(act, 4..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_backup_gives_back_what_it_took(acts in acts()) {
        let mut scene = Scene::new();
        let mut seeds: Vec<u64> = (0..12).collect();
        let mut kept: Vec<(Manifest, BTreeMap<PathBuf, String>)> = Vec::new();
        scene.write("a", &seeds);
        for act in acts {
            match act {
                Act::Change(from, to, seed) => {
                    (from..to).for_each(|at| seeds[at as usize] = 1000 + seed * 12 + at);
                    scene.write("a", &seeds);
                }
                Act::BackUp => {
                    let parent = kept.last().map(|(manifest, _)| manifest.clone());
                    let manifest = scene.back_up(parent.as_ref());
                    kept.push((manifest, stored::fingerprint(&scene.tree())));
                }
                Act::Forget(which) if kept.len() > 1 => {
                    let (manifest, _) = kept.remove(which % (kept.len() - 1));
                    scene.remove(&manifest);
                }
                Act::Forget(_) => {}
                Act::Prune => {
                    scene.prune();
                    scene.assert_good("after a prune");
                }
                Act::Hours(hours) => scene.later(hours),
            }
        }
        for _ in 0..3 {
            scene.later(25);
            scene.prune();
        }
        scene.assert_good("at the end");
        for (manifest, expected) in &kept {
            scene.assert_restores(manifest.id, expected);
        }
        prop_assert!(scene.keys("doomed/").is_empty());
        // No more than the half of what is stored is unused, but for maps and footers.
        let needed = kept.len().min(1) as u64;
        prop_assert!(scene.bytes() <= (kept.len() as u64 * 12 * 2 + 4 * needed) * (68 << 10));
    }
}
