//! A thin volume goes back: renamed away, a thin snapshot of the held one takes its name.
//!
//! What is live has the same filesystem UUID as its copy. So it is not active, nor activated at boot, while it does not have its name: nothing that mounts by
//! UUID finds the wrong one.

use super::super::rollback::{GoBack, Own, Stand, Swap, mount_missing, remounts};
use super::super::{Error, Result, Snapshot, mark};
use super::flush::flush;
use super::report::{self, Lv, changing};
use super::{Lvm, locate, own};
use crate::detect::Mounts;
use crate::units::Id;

impl GoBack for Lvm {
    fn plan(&self, run: Id, held: &Snapshot, mounts: &Mounts) -> Result<Swap> {
        let fail = |reason: String| Error::failed("roll back", &held.volume.source, reason);
        let live = there(&held.volume.id)?;
        if live.kind != "thin" {
            return Err(fail("it is not a thin volume".to_owned()));
        }
        let snapshot = there(&held.name)?;
        if held.identity.as_deref() != Some(snapshot.uuid.as_str()) || snapshot.vg != live.vg {
            return Err(fail(format!("{} is not the snapshot that was held", held.name)));
        }
        let device = locate::device_of(&held.volume.top)?;
        let own = |mount: &crate::detect::Mount| match (mount.device == device, mount.root.as_os_str() == "/") {
            (true, true) => Own::Whole,
            (true, false) => Own::Part,
            _ => Own::No,
        };
        let found = remounts(&held.volume, mounts, own, "")?;
        if !live.device_is(device) {
            return Err(fail(format!(
                "{} does not show it any more; was it unmounted?",
                held.volume.top.display()
            )));
        }
        let name = |name: String| format!("{}/{name}", live.vg);
        let kept = name(mark::name(run, u64::from(device.1)));
        Ok(Swap {
            kept: Snapshot {
                run,
                volume: held.volume.clone(),
                name: kept.clone(),
                identity: Some(live.uuid.clone()),
            },
            held: held.clone(),
            keep: true,
            live: live.full_name(),
            live_identity: live.uuid.clone(),
            fresh: name(format!("snapback_fresh_{run}_{}", device.1)),
            away: kept,
            device: live.device.clone(),
            details: Default::default(),
            mounts: found,
        })
    }

    fn make(&self, swap: &Swap) -> Result<()> {
        if is_fresh(swap, report::one(&swap.fresh)?.as_ref()) {
            return Ok(());
        }
        let (_, name) = split(&swap.fresh);
        changing("lvcreate")?
            .args([
                "--snapshot",
                "--setactivationskip",
                "n",
                "--activate",
                "n",
                "--permission",
                "rw",
                "--addtag",
                &tag(swap),
            ])
            .args(["--name", name, &swap.held.name])
            .run()?;
        flush(split(&swap.live).0)
    }

    fn stand(&self, swap: &Swap) -> Result<Stand> {
        match report::one(&swap.live)? {
            None => Ok(Stand::Away),
            Some(lv) if lv.uuid == swap.live_identity => Ok(Stand::Old),
            found if is_fresh(swap, found.as_ref()) || is_settled(swap)? => Ok(Stand::New),
            Some(_) => {
                let reason = "another volume has its name now; look at it, and give the right one the name back";
                Err(Error::failed("roll back", &swap.live, reason))
            }
        }
    }

    fn away(&self, swap: &Swap) -> Result<()> {
        if self.stand(swap)? != Stand::Old {
            return Ok(());
        }
        put_away(swap)
    }

    fn enter(&self, swap: &Swap) -> Result<()> {
        if self.stand(swap)? == Stand::Away {
            rename(&swap.fresh, &swap.live)?;
        }
        Ok(())
    }

    fn leave(&self, swap: &Swap) -> Result<()> {
        if self.stand(swap)? != Stand::New {
            return Ok(());
        }
        changing("lvchange")?.args(["--activate", "n", &swap.live]).run()?;
        rename(&swap.live, &swap.fresh)
    }

    fn back(&self, swap: &Swap) -> Result<()> {
        if self.stand(swap)? == Stand::Away {
            rename(&swap.away, &swap.live)?;
        }
        Ok(())
    }

    fn settle(&self, swap: &Swap) -> Result<Option<Snapshot>> {
        changing("lvchange")?
            .args([
                "--addtag",
                own::TAG,
                "--addtag",
                &own::run_tag(swap.kept.run),
                &swap.away,
            ])
            .run()?;
        changing("lvchange")?.args(["--deltag", &tag(swap), &swap.live]).run()?;
        flush(split(&swap.live).0)?;
        Ok(Some(swap.kept.clone()))
    }

    fn discard(&self, swap: &Swap) -> Result<()> {
        if is_fresh(swap, report::one(&swap.fresh)?.as_ref()) {
            changing("lvremove")?.args(["--yes", &swap.fresh]).run()?;
            flush(split(&swap.live).0)?;
        }
        Ok(())
    }

    fn mount_again(&self, swap: &Swap) -> Result<()> {
        changing("lvchange")?
            .args(["--setactivationskip", "n", &swap.live])
            .run()?;
        report::activate(&swap.live, &[])?;
        mount_missing(&swap.mounts)
    }
}

/// The copy carries it until all is done.
pub fn tag(swap: &Swap) -> String {
    format!("{}-fresh={}", own::TAG, swap.kept.run)
}

fn is_fresh(swap: &Swap, found: Option<&Lv>) -> bool {
    found.is_some_and(|lv| lv.has_tag(&tag(swap)))
}

/// Whether what was live is marked as kept: from then on the copy loses its own mark.
fn is_settled(swap: &Swap) -> Result<bool> {
    let away = report::one(&swap.away)?;
    Ok(away.is_some_and(|lv| lv.uuid == swap.live_identity && lv.has_tag(&own::run_tag(swap.kept.run))))
}

/// The live volume gives up its name; nothing activates it, a restart neither.
pub fn put_away(swap: &Swap) -> Result<()> {
    changing("lvchange")?
        .args(["--setactivationskip", "y", &swap.live])
        .run()?;
    changing("lvchange")?.args(["--activate", "n", &swap.live]).run()?;
    rename(&swap.live, &swap.away)
}

pub fn there(name: &str) -> Result<Lv> {
    report::one(name)?.ok_or_else(|| Error::failed("roll back", name, "the logical volume is not there any more"))
}

pub fn split(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or(("", name))
}

pub fn rename(old: &str, new: &str) -> Result<()> {
    let ((vg, old), (_, new)) = (split(old), split(new));
    changing("lvrename")?.args([vg, old, new]).run()?;
    flush(vg)
}
