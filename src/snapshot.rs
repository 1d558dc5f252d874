//! Held snapshots: taken before maintenance on the path of a backup, kept, looked at, copied later, removed.

mod copy;
mod create;
mod delete;
mod diff;
mod place;
pub mod status;
mod stopped;
mod view;
mod watch;

pub use copy::backup;
pub use create::{Request, create};
pub use delete::{Removed, delete, expire, finish_deletions, forget};
pub use diff::{Change, Diff, Way, What, diff};
pub use place::remove_left_places;
pub use view::{exec, mount};
pub use watch::{Watched, watch};
