//! A thick volume goes back: the held snapshot is merged into its origin by LVM, and is used up by that. What was live is a second snapshot, taken before: the
//! kernel copies there whatever the merge overwrites, as it does for every write (drivers/md/dm-snap.c).
//!
//! A merge that was asked for while the origin is inactive begins at its activation. Until then nothing was changed, and from then on the origin shows the merged
//! content. It goes on by itself, also over a restart of the host. It cannot be taken back, so it is asked for after all that can fail.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::rollback::{GoBack, Own, Stand, Swap, mount_missing, remounts};
use super::super::{Error, Result, Snapshot, mark};
use super::flush::flush;
use super::report::{self, Lv, changing};
use super::rollback::{put_away, rename, split, tag, there};
use super::{CowSize, locate, own, room};
use crate::detect::Mounts;
use crate::units::{Bytes, Id};

/// The size of the second snapshot, and the least that it needs, in bytes.
const COW: &str = "cow";
const LEAST: &str = "least";

/// Beside what the merge writes, the second snapshot has so much at least, in bytes.
const MARGIN: u64 = 32 << 20;
/// Copy-on-write space has an entry of 16 bytes for each chunk of 4 KiB at least: more than a hundredth is not needed.
const ENTRIES: u64 = 100;

/// How long mounting is tried, and how often.
const MOUNT_LIMIT: Duration = Duration::from_secs(20);
const MOUNT_EVERY: Duration = Duration::from_millis(200);

/// Rollback of thick volumes.
#[derive(Debug)]
pub struct Merge {
    /// Of the snapshot that keeps what was live, beside what the merge writes.
    pub cow_size: CowSize,
}

impl GoBack for Merge {
    fn plan(&self, run: Id, held: &Snapshot, mounts: &Mounts) -> Result<Swap> {
        let fail = |reason: String| Error::failed("roll back", &held.volume.source, reason);
        let live = there(&held.volume.id)?;
        if live.is_merging() {
            let left = live.data_percent().unwrap_or(0.0);
            let reason =
                format!("another snapshot is still being merged into it ({left:.0} % to go): wait for its end");
            return Err(fail(reason));
        }
        let snapshot = there(&held.name)?;
        let ours = held.identity.as_deref() == Some(snapshot.uuid.as_str()) && snapshot.vg == live.vg;
        if !ours || snapshot.origin != live.name {
            return Err(fail(format!("{} is not the snapshot that was held", held.name)));
        }
        let device = locate::device_of(&held.volume.top)?;
        if !live.device_is(device) {
            return Err(fail(format!(
                "{} does not show it any more; was it unmounted?",
                held.volume.top.display()
            )));
        }
        let own = |mount: &crate::detect::Mount| match (mount.device == device, mount.root.as_os_str() == "/") {
            (true, true) => Own::Whole,
            (true, false) => Own::Part,
            _ => Own::No,
        };
        let used = used(&snapshot);
        let least = used + used / ENTRIES + MARGIN;
        let wanted = least + room::planned(&live, self.cow_size, 0);
        let whole = |bytes: u64| bytes.div_ceil(live.extent()) * live.extent();
        // No more than ever could be used.
        let most = whole(live.size() + live.size() / 50 + MARGIN);
        let name = |name: String| format!("{}/{name}", live.vg);
        Ok(Swap {
            kept: Snapshot {
                run,
                volume: held.volume.clone(),
                name: name(mark::name(run, u64::from(device.1))),
                identity: None,
            },
            held: held.clone(),
            keep: true,
            live: live.full_name(),
            live_identity: live.uuid.clone(),
            fresh: String::new(),
            away: name(format!("snapback_away_{run}_{}", device.1)),
            device: live.device.clone(),
            details: [
                (COW.to_owned(), whole(wanted).min(most).to_string()),
                (LEAST.to_owned(), whole(least).min(most).to_string()),
            ]
            .into(),
            mounts: remounts(&held.volume, mounts, own, "")?,
        })
    }

    fn uses_up(&self) -> bool {
        true
    }

    /// Those of one group share what it has free.
    fn arrange(&self, swaps: &mut [&mut Swap]) -> Result<Option<String>> {
        let mut free: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for swap in swaps.iter() {
            let live = there(&swap.live)?;
            free.insert(live.vg.clone(), (live.vg_free(), live.extent()));
        }
        for (vg, (free, extent)) in free {
            let mut of_group: Vec<&mut &mut Swap> = swaps.iter_mut().filter(|swap| split(&swap.live).0 == vg).collect();
            let sum = |what: &str, of: &[&mut &mut Swap]| of.iter().map(|swap| number(swap, what)).sum::<u64>();
            let (wanted, least) = (sum(COW, &of_group), sum(LEAST, &of_group));
            if least > free {
                return Ok(Some(format!(
                    "volume group {vg} has {} free, and a snapshot of what is live needs {}, because the merge writes that much",
                    Bytes::b(free),
                    Bytes::b(least)
                )));
            }
            if wanted > free {
                let each = (free - least) / of_group.len().max(1) as u64 / extent * extent;
                for swap in &mut of_group {
                    let size = number(swap, LEAST) + each;
                    swap.details.insert(COW.to_owned(), size.to_string());
                }
            }
        }
        Ok(None)
    }

    /// What the merge overwrites is copied to each of them first.
    fn strains(&self, swap: &Swap) -> Result<Vec<String>> {
        let (vg, origin) = split(&swap.live);
        let writes = there(&swap.held.name).map(|held| used(&held))?;
        let others = report::list(&[vg])?.into_iter().filter(|lv| {
            let room = lv.size().saturating_sub(used(lv));
            lv.origin == origin && lv.full_name() != swap.held.name && !lv.is_invalid() && room < writes
        });
        let said = others.map(|lv| {
            format!(
                "{} may overflow, and be lost: the merge writes up to {}, which is copied there first",
                lv.full_name(),
                Bytes::b(writes)
            )
        });
        Ok(said.collect())
    }

    /// What was live is kept when nobody writes any more.
    fn make(&self, _swap: &Swap) -> Result<()> {
        Ok(())
    }

    fn stand(&self, swap: &Swap) -> Result<Stand> {
        let (found, away) = match report::one(&swap.live)? {
            Some(lv) => (lv, false),
            None => (there(&swap.away)?, true),
        };
        match (found.uuid == swap.live_identity, found.has_tag(&tag(swap)), away) {
            (false, ..) => {
                let reason = "another volume has its name now; look at it, and give the right one the name back";
                Err(Error::failed("roll back", &swap.live, reason))
            }
            (true, true, _) => Ok(Stand::New),
            (true, false, true) => Ok(Stand::Away),
            (true, false, false) => Ok(Stand::Old),
        }
    }

    fn away(&self, swap: &Swap) -> Result<()> {
        if self.stand(swap)? != Stand::Old {
            return Ok(());
        }
        if swap.keep && report::one(&swap.kept.name)?.is_none() {
            let size = format!("{}b", number(swap, COW));
            changing("lvcreate")?
                .args(["--snapshot", "--yes", "--addtag", &tag(swap), "--size", &size])
                .args(["--permission", "rw", "--name", split(&swap.kept.name).1, &swap.live])
                .run()?;
            crate::failpoint!("lvm.kept", || Error::failed("keep", "the volume", "failpoint"));
        }
        put_away(swap)
    }

    fn enter(&self, swap: &Swap) -> Result<()> {
        if self.stand(swap)? == Stand::Away {
            changing("lvchange")?.args(["--addtag", &tag(swap), &swap.away]).run()?;
            flush(split(&swap.away).0)?;
        }
        Ok(())
    }

    fn leave(&self, swap: &Swap) -> Result<()> {
        if self.stand(swap)? == Stand::New {
            changing("lvchange")?.args(["--deltag", &tag(swap), &swap.away]).run()?;
            flush(split(&swap.away).0)?;
        }
        Ok(())
    }

    fn back(&self, swap: &Swap) -> Result<()> {
        if self.stand(swap)? == Stand::Away {
            rename(&swap.away, &swap.live)?;
        }
        Ok(())
    }

    fn commit(&self, swap: &Swap) -> Result<()> {
        let Some(origin) = report::one(&swap.away)? else {
            return Ok(());
        };
        if !origin.is_merging() {
            changing("lvconvert")?
                .args(["--mergesnapshot", "--background", &swap.held.name])
                .run()?;
            crate::failpoint!("lvm.merging");
        }
        rename(&swap.away, &swap.live)
    }

    fn settle(&self, swap: &Swap) -> Result<Option<Snapshot>> {
        changing("lvchange")?.args(["--deltag", &tag(swap), &swap.live]).run()?;
        if !swap.keep {
            flush(split(&swap.live).0)?;
            return Ok(None);
        }
        let name = &swap.kept.name;
        changing("lvchange")?
            .args(["--addtag", own::TAG, "--addtag", &own::run_tag(swap.kept.run)])
            .args(["--deltag", &tag(swap), name])
            .run()?;
        flush(split(name).0)?;
        Ok(Some(Snapshot {
            identity: Some(there(name)?.uuid),
            ..swap.kept.clone()
        }))
    }

    fn discard(&self, swap: &Swap) -> Result<()> {
        let ours = |lv: &Lv| lv.has_tag(&tag(swap));
        if report::one(&swap.kept.name)?.as_ref().is_some_and(ours) {
            changing("lvremove")?.args(["--yes", &swap.kept.name]).run()?;
            flush(split(&swap.kept.name).0)?;
        }
        Ok(())
    }

    fn mount_again(&self, swap: &Swap) -> Result<()> {
        changing("lvchange")?
            .args(["--setactivationskip", "n", &swap.live])
            .run()?;
        report::activate(&swap.live, &[])?;
        // LVM suspends the origin when a merge ends, and the kernel mounts no device that is frozen (EBUSY of get_tree_bdev, fs/super.c): a short merge may end right now.
        let until = Instant::now() + MOUNT_LIMIT;
        loop {
            match mount_missing(&swap.mounts) {
                Err(error) if Instant::now() < until => {
                    tracing::debug!(%error, "mounting again");
                    std::thread::sleep(MOUNT_EVERY);
                }
                answer => return answer,
            }
        }
    }
}

/// Bytes that a snapshot's copy-on-write space has; all of it where LVM does not say.
fn used(snapshot: &Lv) -> u64 {
    (snapshot.size() as f64 * snapshot.data_percent().unwrap_or(100.0) / 100.0) as u64
}

fn number(swap: &Swap, detail: &str) -> u64 {
    swap.details.get(detail).and_then(|text| text.parse().ok()).unwrap_or(0)
}
