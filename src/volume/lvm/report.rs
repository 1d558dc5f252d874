//! What `lvs` says of logical volumes (lvmreport(7)), as JSON.

use std::time::Duration;

use serde::Deserialize;

use super::super::{Error, Result};
use crate::sys::command::{Command, Program};

/// The fields that are asked for, in the names that `lvs -o` takes.
const FIELDS: &str = "vg_name,lv_name,lv_uuid,lv_attr,lv_size,segtype,pool_lv,origin,data_percent,metadata_percent,lv_tags,lv_dm_path,\
                      vg_free,vg_extent_size,lv_snapshot_invalid,lv_health_status,lv_metadata_size";

/// The longest that a command which changes something is waited for.
const CHANGE_LIMIT: Duration = Duration::from_secs(300);

/// One logical volume.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Lv {
    #[serde(rename = "vg_name")]
    pub vg: String,
    #[serde(rename = "lv_name")]
    pub name: String,
    #[serde(rename = "lv_uuid")]
    pub uuid: String,
    /// lvs(8), "lv_attr".
    #[serde(rename = "lv_attr")]
    pub attributes: String,
    #[serde(rename = "lv_size")]
    size: String,
    #[serde(rename = "segtype")]
    pub kind: String,
    #[serde(rename = "pool_lv")]
    pub pool: String,
    pub origin: String,
    data_percent: String,
    metadata_percent: String,
    #[serde(rename = "lv_tags")]
    tags: String,
    /// Below /dev/mapper.
    #[serde(rename = "lv_dm_path")]
    pub device: String,
    vg_free: String,
    vg_extent_size: String,
    #[serde(rename = "lv_snapshot_invalid")]
    invalid: String,
    #[serde(rename = "lv_health_status")]
    pub status: String,
    #[serde(rename = "lv_metadata_size", default)]
    metadata_size: String,
}

impl Lv {
    /// `VG/LV`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.vg, self.name)
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size.parse().unwrap_or(0)
    }

    /// What the volume group has left, in bytes.
    pub fn vg_free(&self) -> u64 {
        self.vg_free.parse().unwrap_or(0)
    }

    /// In bytes.
    pub fn extent(&self) -> u64 {
        self.vg_extent_size.parse().unwrap_or(4 << 20).max(1)
    }

    /// How full it is, in hundredths: of a thick snapshot its copy-on-write space, of a pool its data.
    pub fn data_percent(&self) -> Option<f64> {
        self.data_percent.parse().ok()
    }

    /// How full a pool's metadata is, in hundredths.
    pub fn metadata_percent(&self) -> Option<f64> {
        self.metadata_percent.parse().ok()
    }

    /// The size of a pool's metadata, in bytes; 0 where it has none.
    pub fn metadata_size(&self) -> u64 {
        self.metadata_size.parse().unwrap_or(0)
    }

    /// A thick snapshot that overflowed: what is read from it is errors.
    pub fn is_invalid(&self) -> bool {
        self.invalid == "snapshot invalid" || self.invalid == "1" || self.attributes.get(4..5) == Some("I")
    }

    /// Whether it has a device.
    pub fn is_active(&self) -> bool {
        self.attributes.get(4..5).is_some_and(|state| state != "-")
    }

    /// Suspended: whoever writes to it waits.
    pub fn is_suspended(&self) -> bool {
        self.attributes.get(4..5) == Some("s")
    }

    /// An origin that a snapshot is being merged into, or will be at its next activation.
    pub fn is_merging(&self) -> bool {
        self.attributes.starts_with('O')
    }

    /// Whether it is the block device with this number.
    pub fn device_is(&self, number: (u32, u32)) -> bool {
        let found = rustix::fs::stat(&*self.device);
        found.is_ok_and(|found| (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev)) == number)
    }

    /// Whether it has a tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.split(',').any(|one| one == tag)
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    report: Vec<Section>,
}

#[derive(Debug, Deserialize)]
struct Section {
    lv: Vec<Lv>,
}

/// The logical volumes of these names, or with this tag (`@TAG`), or all.
pub fn list(of: &[&str]) -> Result<Vec<Lv>> {
    let output = lvm("lvs")?
        .args(["--reportformat", "json", "--units", "b", "--nosuffix", "-o", FIELDS])
        .args(of)
        .run()?;
    parse(&output)
}

/// One logical volume by its name (`VG/LV`); `None` when it is not there. By selection: then one that is missing is no error. Of its group alone: `lvs` reads
/// every group otherwise, and waits for the lock of each, which a command of ours at the brink, or a stranger's `pvmove`, may hold for long.
pub fn one(name: &str) -> Result<Option<Lv>> {
    let (vg, lv) = name
        .split_once('/')
        .ok_or_else(|| Error::failed("find the logical volume", name, "that is no name of one"))?;
    selected(vg, &format!("lv_name={lv}"))
}

/// The logical volume of a group that a selection (lvmreport(7)) fits, as [`one`].
pub fn selected(vg: &str, selection: &str) -> Result<Option<Lv>> {
    match list(&["--select", selection, vg]) {
        Ok(found) => Ok(found.into_iter().next()),
        Err(Error::Sys(crate::sys::Error::Program { stderr, .. })) if no_group(&stderr, vg) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether there is a volume group of this name.
pub fn is_group(vg: &str) -> Result<bool> {
    match list(&[vg]) {
        Ok(_) => Ok(true),
        Err(Error::Sys(crate::sys::Error::Program { stderr, .. })) if no_group(&stderr, vg) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether LVM says that there is no such volume group (`Volume group "vg0" not found`).
fn no_group(said: &str, vg: &str) -> bool {
    said.contains(&format!("Volume group \"{vg}\" not found"))
}

/// A call of one of LVM's commands.
pub fn lvm(name: &str) -> Result<Command> {
    Ok(Command::new(&Program::find(name)?))
}

/// A call of one that changes logical volumes: it suspends and resumes devices that production uses, so it is never killed.
pub fn changing(name: &str) -> Result<Command> {
    let command = lvm(name)?.limit(CHANGE_LIMIT).spared();
    // dmeventd must not be started (by `lvcreate` with our filter on it); the fill is watched by the run itself.
    Ok(command.args(["--config", "activation/monitoring=0"]))
}

/// Activates a volume. LVM lets no thin pool be used whose metadata `thin_check` does not pass, and after a power failure that may be because blocks are counted that
/// nothing uses, which is harmless. [M: thin_check 1.1.0, "data space map contains leaks", status 64, after a reset in the lab.]
///
/// # Errors
/// LVM refuses; for such a pool with what to do.
pub fn activate(name: &str, more: &[&str]) -> Result<()> {
    let command = changing("lvchange")?.args(["--activate", "y"]).args(more).args([name]);
    command.run().map(drop).map_err(|error| match damaged_pool(&error.to_string()) {
        Some(pool) => Error::failed(
            "activate",
            name,
            format!(
                "{error}; LVM lets nobody use the pool before it is repaired: `lvconvert --repair {pool}` (a power failure may leave blocks in a thin pool's metadata that nothing \
                 uses), then the same again"
            ),
        ),
        None => error.into(),
    })
}

/// The pool in "Check of pool VG/POOL failed (status:64). Manual repair required!".
fn damaged_pool(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("Check of pool ")?;
    rest.split_once(" failed").map(|(pool, _)| pool)
}

pub(super) fn parse(output: &[u8]) -> Result<Vec<Lv>> {
    let answer: Answer = serde_json::from_slice(output)
        .map_err(|error| Error::failed("understand the answer of", "lvs", error.to_string()))?;
    Ok(answer.report.into_iter().flat_map(|section| section.lv).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_needs_repair_is_named() {
        let said =
            "lvchange failed (exit status: 5): Check of pool labvg/pool failed (status:64). Manual repair required!";
        assert_eq!(damaged_pool(said), Some("labvg/pool"));
        assert_eq!(damaged_pool("Failed to find logical volume \"labvg/db\""), None);
    }

    /// As LVM 2.03.31 printed it.
    const ANSWER: &str = r#"{ "report": [ { "lv": [
        {"vg_name":"vg0", "lv_name":"db", "lv_uuid":"DyeSzi-fTYF-Tdv8-EB4h-Dm0k-Bg9S-9Gz3ui", "lv_attr":"owi-aos---", "lv_size":"536870912",
         "segtype":"linear", "pool_lv":"", "origin":"", "data_percent":"", "metadata_percent":"", "lv_tags":"", "lv_dm_path":"/dev/mapper/vg0-db",
         "vg_free":"1564475392", "vg_extent_size":"4194304", "lv_snapshot_invalid":"", "lv_health_status":""},
        {"vg_name":"vg0", "lv_name":"s", "lv_uuid":"x", "lv_attr":"swi-I-s---", "lv_size":"536870912", "segtype":"linear", "pool_lv":"",
         "origin":"db", "data_percent":"100.00", "metadata_percent":"", "lv_tags":"snapback,other", "lv_dm_path":"/dev/mapper/vg0-s",
         "vg_free":"1564475392", "vg_extent_size":"4194304", "lv_snapshot_invalid":"snapshot invalid", "lv_health_status":""} ] } ] }"#;

    #[test]
    fn an_answer_is_understood() {
        let found = parse(ANSWER.as_bytes()).unwrap();
        assert_eq!(
            (found[0].full_name().as_str(), found[0].size(), found[0].extent()),
            ("vg0/db", 512 << 20, 4 << 20)
        );
        assert_eq!(found[0].data_percent(), None);
        assert!(!found[0].is_invalid());
        assert!(found[1].is_invalid() && found[1].has_tag("snapback") && !found[1].has_tag("snap"));
        assert_eq!(found[1].data_percent(), Some(100.0));
        assert!(!found[0].is_suspended() && found[0].is_active());
        assert!(!parse(ANSWER.replace("owi-aos", "owi---s").as_bytes()).unwrap()[0].is_active());
        assert!(!found[0].is_merging());
        assert!(parse(ANSWER.replace("owi-aos", "Owi-aos").as_bytes()).unwrap()[0].is_merging());
        assert!(parse(ANSWER.replace("owi-aos", "owi-sos").as_bytes()).unwrap()[0].is_suspended());
    }

    /// As LVM 2.03.31 says it; any other failure is one.
    #[test]
    fn a_group_that_is_not_there_is_told_from_other_failures() {
        let said = "  Volume group \"vg0\" not found\n  Cannot process volume group vg0\n";
        assert!(no_group(said, "vg0") && !no_group(said, "vg"));
        assert!(!no_group("  Can't get lock for vg0.\n", "vg0"));
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(parse(b"  WARNING: something").is_err());
    }
}
