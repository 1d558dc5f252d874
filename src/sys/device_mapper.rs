//! A device that a killed command left suspended: seen and resumed by device-mapper's own ioctls (linux/dm-ioctl.h), without starting
//! a program, since the programs may lie on that very device.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsFd;

use super::ioctl::call;
use super::{Error, Result};

const CONTROL: &str = "/dev/mapper/control";
const DM_DEV_SUSPEND: u32 = 0xc138_fd06;
const DM_DEV_STATUS: u32 = 0xc138_fd07;
const DM_TABLE_CLEAR: u32 = 0xc138_fd0a;
/// Asked for: suspend, else resume. Answered: it is suspended.
const SUSPENDED: u32 = 1 << 1;

/// struct dm_ioctl.
#[repr(C)]
struct DmIoctl {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

impl DmIoctl {
    fn of((major, minor): (u32, u32)) -> DmIoctl {
        let (major, minor) = (u64::from(major), u64::from(minor));
        DmIoctl {
            version: [4, 0, 0],
            data_size: size_of::<DmIoctl>() as u32,
            data_start: 0,
            target_count: 0,
            open_count: 0,
            flags: 0,
            event_nr: 0,
            padding: 0,
            // The kernel's encoding of a device number (linux/kdev_t.h, huge_encode_dev).
            dev: (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
            name: [0; 128],
            uuid: [0; 129],
            data: [0; 7],
        }
    }
}

/// Resumes a device that is suspended, with the table that it has: what was loaded for it and is not in force is dropped. Returns whether it
/// was suspended.
///
/// # Errors
/// Device-mapper refused; `name` stands for the device in the message.
pub fn wake(device: (u32, u32), name: &str) -> Result<bool> {
    let fail = |operation: &'static str| move |error| Error::path(operation, name, error);
    let control = File::open(CONTROL).map_err(|error| Error::path("open", CONTROL, error))?;
    let control = control.as_fd();
    let mut status = DmIoctl::of(device);
    // SAFETY: dm_ioctl is what linux/dm-ioctl.h documents for all three calls; it holds no pointers.
    unsafe { call::<DM_DEV_STATUS, _>(control, &mut status) }.map_err(fail("ask for the state of"))?;
    if status.flags & SUSPENDED == 0 {
        return Ok(false);
    }
    // SAFETY: as above.
    unsafe { call::<DM_TABLE_CLEAR, _>(control, &mut DmIoctl::of(device)) }
        .map_err(fail("drop the pending table of"))?;
    // SAFETY: as above.
    unsafe { call::<DM_DEV_SUSPEND, _>(control, &mut DmIoctl::of(device)) }.map_err(fail("resume"))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_number_is_encoded_as_the_kernel_does() {
        assert_eq!(DmIoctl::of((253, 1)).dev, 0xfd01);
        assert_eq!(DmIoctl::of((253, 0x1234)).dev, 0x0120_fd34);
        assert_eq!(size_of::<DmIoctl>(), 312);
    }
}
