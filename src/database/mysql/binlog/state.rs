//! What a log's events add up to, event by event as their bytes come: the GTIDs, the time, the end of the last complete group.

use super::event::{Event, FORMAT_DESCRIPTION};
use super::group::Groups;
use super::trace::Trace;
use crate::database::Flavour;

const HEADER: usize = 19;

/// The state behind the events that were taken.
pub struct State {
    groups: Groups,
    /// Whether an event could not be understood: the state then says nothing.
    lost: bool,
    at: u64,
    trace: Trace,
}

impl State {
    /// Before the first event of a log.
    pub fn new(flavour: Flavour) -> State {
        State {
            groups: Groups::new(flavour, 4),
            lost: false,
            at: 4,
            trace: Trace::new(),
        }
    }

    /// Takes the next event, whole.
    pub fn take(&mut self, bytes: &[u8]) {
        self.trace.take(bytes);
        let Some((kind, time, server_id)) = header(bytes) else {
            self.lost = true;
            return;
        };
        let end = self.at + bytes.len() as u64;
        let checksum = if self.trace.has_checksums() || kind == FORMAT_DESCRIPTION {
            4
        } else {
            0
        };
        let body = bytes
            .get(HEADER..bytes.len().saturating_sub(checksum))
            .unwrap_or_default();
        let event = Event {
            kind,
            time,
            server_id,
            at: self.at,
            end,
            body: body.to_vec(),
        };
        self.lost |= self.groups.take(&event).is_err();
        self.at = end;
    }

    /// The GTIDs of the groups that are complete; `None` where that cannot be told.
    pub fn gtids(&self) -> Option<String> {
        (!self.lost).then(|| self.groups.gtids_text(false))
    }

    /// The same with that of a group that has only begun.
    pub fn gtids_begun(&self) -> Option<String> {
        (!self.lost).then(|| self.groups.gtids_text(true))
    }
}

/// Type, time and server of an event.
pub fn header(event: &[u8]) -> Option<(u8, u32, u32)> {
    let number = |at: usize| Some(u32::from_le_bytes(event.get(at..at + 4)?.try_into().ok()?));
    (event.len() >= HEADER).then_some(())?;
    Some((event[4], number(0)?, number(5)?))
}

/// The events of a part of a log that begins with one.
pub fn events(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let size = u32::from_le_bytes(bytes.get(9..13)?.try_into().ok()?) as usize;
        let (event, rest) = (size >= HEADER).then(|| bytes.split_at_checked(size)).flatten()?;
        bytes = rest;
        Some(event)
    })
}
