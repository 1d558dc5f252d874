//! The exchange of one volume, step by step, on whatever storage is chosen: forward, back, and what is kept afterwards.

use std::path::Path;

use snapback::config::Config;
use snapback::detect::Mounts;
use snapback::units::Id;
use snapback::volume::rollback::{GoBack, Stand, Swap};
use snapback::volume::{Provider, Snapshot, providers};

use crate::common::{Kind, Lab, Storage};

fn located(all: &[Box<dyn Provider>], path: &Path) -> (usize, snapback::volume::Volume) {
    let mounts = Mounts::read().unwrap();
    let found = all
        .iter()
        .enumerate()
        .find_map(|(number, one)| Some((number, one.locate(path, &mounts).unwrap()?.volume)));
    found.expect("the path lies on a volume")
}

fn held(provider: &dyn Provider, path: &Path, volume: snapback::volume::Volume) -> Snapshot {
    provider.room(std::slice::from_ref(&volume), 1 << 20).unwrap();
    let planned = provider.plan(Id::random(), &[volume], &[path.join("data")]).unwrap();
    let mut prepared = provider.prepare(&planned, None).unwrap();
    prepared.fix().unwrap();
    prepared.finish().unwrap().remove(0)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path.join("data/f")).unwrap()
}

/// Forward, to the end, each step twice: the second time it does nothing.
fn go(way: &dyn GoBack, swap: &Swap, storage: &Storage) -> Snapshot {
    for _ in 0..2 {
        way.make(swap).unwrap();
    }
    unmount(swap);
    assert_eq!(way.stand(swap).unwrap(), Stand::Old);
    way.away(swap).unwrap();
    way.away(swap).unwrap();
    assert_eq!(way.stand(swap).unwrap(), Stand::Away);
    way.enter(swap).unwrap();
    way.enter(swap).unwrap();
    assert_eq!(way.stand(swap).unwrap(), Stand::New);
    way.commit(swap).unwrap();
    way.commit(swap).unwrap();
    way.mount_again(swap).unwrap();
    way.mount_again(swap).unwrap();
    way.settle(swap).unwrap();
    // As `cleanup` goes on after a death right there.
    way.enter(swap).unwrap();
    way.commit(swap).unwrap();
    way.mount_again(swap).unwrap();
    let kept = way.settle(swap).unwrap().unwrap();
    storage.wait_until_merged();
    kept
}

fn unmount(swap: &Swap) {
    for mount in swap.mounts.iter().rev() {
        rustix::mount::unmount(&mount.at, rustix::mount::UnmountFlags::empty()).unwrap();
    }
}

#[test]
fn a_volume_goes_back_and_what_was_live_is_kept() {
    let Some(lab) = Lab::new() else { return };
    let path = lab.storage.volume("db");
    std::fs::create_dir(path.join("data")).unwrap();
    let write = |text: &str| std::fs::write(path.join("data/f"), text).unwrap();
    write("old");
    let all = providers(&Config::default());
    let (number, volume) = located(&all, &path);
    let provider = &*all[number];
    let Some(way) = provider.go_back() else {
        assert!(
            matches!(lab.storage.kind, Kind::Zvol),
            "{:?} goes back",
            lab.storage.kind
        );
        return;
    };
    let first = held(provider, &path, volume.clone());
    write("newer");
    let second = held(provider, &path, volume);
    write("live");
    let plan = |held: &Snapshot| way.plan(Id::random(), held, &Mounts::read().unwrap()).unwrap();

    // Begun and undone, from each of its stands.
    for steps in 0..3 {
        let swap = plan(&first);
        way.make(&swap).unwrap();
        unmount(&swap);
        if steps > 0 {
            way.away(&swap).unwrap();
        }
        if steps > 1 {
            way.enter(&swap).unwrap();
        }
        for _ in 0..2 {
            way.leave(&swap).unwrap();
            way.back(&swap).unwrap();
            way.mount_again(&swap).unwrap();
            way.discard(&swap).unwrap();
        }
        assert_eq!(read(&path), "live", "undone after {steps} steps");
        assert_eq!(lab.storage.snapshots().len(), 2, "{:?}", lab.storage.snapshots());
    }

    let kept = go(way, &plan(&first), &lab.storage);
    assert_eq!(read(&path), "old");
    write("old, and written to");

    // A rollback of the rollback. On ZFS the kept state is a dataset of its own.
    let again = go(way, &plan(&kept), &lab.storage);
    assert_eq!(read(&path), "live");
    write("live, and written to");

    // All of ours are still there, where they are looked for, and can be removed.
    let listed = provider.list_own(&Mounts::read().unwrap()).unwrap();
    let there = |wanted: &Snapshot| listed.iter().any(|one| one.identity == wanted.identity);
    for wanted in [&second, &again] {
        assert!(there(wanted), "{wanted:?} is not among {listed:?}");
    }
    for wanted in [&first, &kept] {
        assert_eq!(there(wanted), !way.uses_up(), "{wanted:?} and {listed:?}");
    }
    let back = way
        .plan(Id::random(), &by_name_now(&second, &listed), &Mounts::read().unwrap())
        .unwrap();
    let last = go(way, &back, &lab.storage);
    assert_eq!(read(&path), "newer");
    assert!(matches!(
        provider.health(&last).unwrap(),
        snapback::volume::Health::Good
    ));
    let listed = provider.list_own(&Mounts::read().unwrap()).unwrap();
    for one in [&last, &again, &kept, &second, &first] {
        if !listed.iter().any(|there| there.identity == one.identity) {
            assert!(way.uses_up(), "{one:?} is not among {listed:?}");
            continue;
        }
        let named = by_name_now(one, &listed);
        assert!(provider.remove(&named).unwrap(), "{} is removed", named.name);
    }
    assert_eq!(lab.storage.snapshots(), Vec::<String>::new());
    assert_eq!(read(&path), "newer");
}

fn by_name_now(snapshot: &Snapshot, listed: &[Snapshot]) -> Snapshot {
    let now = listed.iter().find(|one| one.identity == snapshot.identity).unwrap();
    Snapshot {
        name: now.name.clone(),
        ..snapshot.clone()
    }
}
