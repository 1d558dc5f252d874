//! What gives rights comes back only where it is asked for, and a mount opens nothing that was closed.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use crate::mount::Mounted;
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

#[test]
fn a_mount_for_all_keeps_out_whom_a_directory_above_the_tree_keeps_out() {
    let Some(mut scene) = Scene::new() else { return };
    let secret = scene.path("second/inside/secret");
    std::fs::write(&secret, "topsecret").unwrap();
    let set_mode = |path: &Path, mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path, mode).unwrap();
    };
    for open in [&secret, &scene.path("second/inside"), &scene.path("")] {
        set_mode(open, if *open == secret { 0o644 } else { 0o755 });
    }
    let seen_by_nobody = |scene: &Scene| {
        let mut mounted = Mounted::new(scene, &["--allow-other"])?;
        let at = mounted.at.join("h1/latest").join(secret.strip_prefix("/").unwrap());
        let mut nobody = Command::new("setpriv");
        nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "cat"]);
        let output = nobody.arg(at).output().unwrap();
        assert_eq!(mounted.end(rustix::process::Signal::INT), Some(0));
        Some(output.stdout == b"topsecret")
    };
    for (mode, seen) in [(0o755, true), (0o700, false)] {
        set_mode(&scene.path("second"), mode);
        scene.back_up();
        let Some(answer) = seen_by_nobody(&scene) else { return };
        assert_eq!(answer, seen, "{mode:o}");
    }
}
