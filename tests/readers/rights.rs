//! What gives rights comes back only where it is asked for.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::scene::{Scene, said};

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 64];
    let length = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn devices_set_user_id_and_capabilities_of_files_come_back_only_when_asked_for() {
    let Some(mut scene) = Scene::new() else { return };
    let first = scene.path("first");
    // cap_setuid of version 2, in effect and permitted.
    let mut capability = vec![1, 0, 0, 2, 0x80, 0, 0, 0];
    capability.resize(20, 0);
    let set = rustix::fs::setxattr(
        first.join("added"),
        "security.capability",
        &capability,
        rustix::fs::XattrFlags::empty(),
    );
    set.unwrap();
    std::fs::hard_link(first.join("null"), first.join("zz-null")).unwrap();
    scene.back_up();

    let output = scene.run(&["restore", "latest", "--target", &scene.text("plain")]);
    let message = said(&output);
    assert_eq!(output.status.code(), Some(5), "{message}");
    for words in [
        "5 devices",
        "2 set-user-ID",
        "first/null",
        "first/small",
        "first/added",
        "--special",
    ] {
        assert!(message.contains(words), "{words}: {message}");
    }
    let plain = scene.path("plain").join(first.strip_prefix("/").unwrap());
    for name in ["null", "disk", "zz-null"] {
        assert!(plain.join(name).symlink_metadata().is_err(), "{name} came back");
    }
    let small = plain.join("small");
    assert_eq!(small.metadata().unwrap().mode() & 0o7777, 0o751);
    assert_eq!(attribute(&small, "trusted.kept"), None);
    assert_eq!(attribute(&small, "user.note").as_deref(), Some(&b"a\0b"[..]));
    assert_eq!(attribute(&plain.join("added"), "security.capability"), None);
    assert!(plain.join("fifo").metadata().unwrap().file_type().is_fifo());
    assert_eq!(plain.join("deep").metadata().unwrap().mode() & 0o7777, 0o1770);

    scene.ok(&["restore", "latest", "--target", &scene.text("asked"), "--special"]);
    scene.assert_whole(&scene.path("asked"));
    let refused = scene.run(&["restore", "latest", "--datadir", &scene.text("none"), "--special"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
}
