//! What needs no frozen filesystem; the rest is in tests/privileged/filesystem.rs.

use super::*;

#[test]
fn what_cannot_be_frozen_is_named() {
    // procfs has no freeze_fs; without CAP_SYS_ADMIN it is refused even sooner.
    let mut freezer = Freezer::prepare(&[PathBuf::from("/proc")], Duration::from_secs(5)).unwrap();
    let error = freezer.freeze().unwrap_err();
    assert!(matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::EPERM)), "{error}");
    assert!(error.to_string().contains("/proc"), "{error}");
    assert!(freezer.thaw().is_err(), "what was not frozen cannot have stayed so");
}

#[test]
fn a_missing_directory_is_named() {
    let error = Freezer::prepare(&[PathBuf::from("/nowhere/at/all")], Duration::from_secs(5)).unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}

#[test]
fn nothing_to_freeze_is_fine() {
    let mut freezer = Freezer::prepare(&[], Duration::from_secs(5)).unwrap();
    freezer.freeze().unwrap();
    freezer.thaw().unwrap();
}
