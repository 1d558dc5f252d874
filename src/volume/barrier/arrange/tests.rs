use super::*;
use crate::volume::fake::Fake;

/// Volumes on two filesystems: the ordinary one, which holds the system's directories, and a tmpfs.
struct Lab {
    plain: tempfile::TempDir,
    apart: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        Lab {
            plain: tempfile::tempdir().unwrap(),
            apart: tempfile::tempdir_in("/dev/shm").unwrap(),
        }
    }

    fn arrange(&self, fake: impl Fn(Fake) -> Fake, written: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
        let tops = [self.plain.path().join("a"), self.apart.path().join("b")];
        for top in &tops {
            std::fs::create_dir_all(top).unwrap();
        }
        let fake = fake(Fake::new(&tops, &self.plain.path().join("snapshots")));
        let volumes: Vec<Volume> = [&tops[1], &tops[0]].map(|top| fake.volume(top)).to_vec();
        let providers: Vec<Box<dyn Provider>> = vec![Box::new(fake)];
        let arrangement = arrange(&providers, &volumes, written)?;
        Ok(arrangement.volumes().map(|volume| volume.top.clone()).collect())
    }
}

#[test]
fn what_the_system_writes_to_is_the_anchor() {
    let lab = Lab::new();
    let order = lab.arrange(Fake::with_freezing, &[]).unwrap();
    assert_eq!(order, [lab.plain.path().join("a"), lab.apart.path().join("b")]);
}

#[test]
fn two_volumes_that_must_stay_writable_cannot_agree() {
    let lab = Lab::new();
    // This tool's own directory, which need not be there yet.
    let written = lab.apart.path().join("state/of/ours");
    let reason = lab.arrange(Fake::with_freezing, &[written]).unwrap_err();
    assert_eq!(reason.matches("write to meanwhile").count(), 2, "{reason}");
}

#[test]
fn volumes_that_cannot_be_frozen_are_refused_with_the_reason() {
    let reason = Lab::new().arrange(|fake| fake, &[]).unwrap_err();
    assert_eq!(reason.matches("is a fake").count(), 2, "{reason}");
}

#[test]
fn what_one_command_takes_is_one_set() {
    let lab = Lab::new();
    assert_eq!(lab.arrange(Fake::with_one_instant, &[]).unwrap().len(), 2);
}
