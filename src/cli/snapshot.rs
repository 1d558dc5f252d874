//! `snapback snapshot`: held snapshots, the way back from maintenance.

mod create;
mod list;
mod remove;
mod view;
mod watch;

use clap::{Args, Subcommand};

use super::{Context, Exit};
use crate::Result;

pub(super) const EXAMPLES: &str = "\
Examples:
  snapback snapshot create --label before-upgrade --expires 7d
  snapback snapshot list
  snapback snapshot exec latest -- ls -l var/lib/mysql
  snapback snapshot delete before-upgrade

SET is `latest`, an id or a unique prefix of one, or a label.";

#[derive(Debug, Args)]
pub(super) struct Snapshot {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take a held set: detect, lock, position and snapshot as for a backup, without the copy
    #[command(
        after_help = "The server may be running, read-only or stopped. Exit status 3 when it was busy and was left alone.\n\nExamples:\n  snapback snapshot create --label before-upgrade --expires 7d\n  snapback snapshot create --consistency crash"
    )]
    Create(create::Create),
    /// List the held sets, oldest first: age, promise, position, space, and when their storage is full
    #[command(
        after_help = "Examples:\n  snapback snapshot list\n  snapback snapshot list --space --json | jq '.[].bytes'"
    )]
    List(list::List),
    /// Show one held set: promise, position, lock, snapshots, trees
    #[command(
        after_help = "Examples:\n  snapback snapshot show latest\n  snapback snapshot show 3f2a --json | jq .record.position"
    )]
    Show(list::Show),
    /// Remove a held set with all of its snapshots
    #[command(after_help = "Examples:\n  snapback snapshot delete 3f2a\n  snapback snapshot delete before-upgrade")]
    Delete(remove::Delete),
    /// Remove the held sets whose time is over (`snapback cleanup` does so too)
    #[command(after_help = "Examples:\n  snapback snapshot expire --dry-run\n  snapback snapshot expire")]
    Expire(remove::Expire),
    /// Show a held set read-only at an empty directory, each tree at its original path below it
    #[command(
        after_help = "It stays until `umount -R DIR`; until then the set cannot be deleted.\n\nExamples:\n  snapback snapshot mount latest /mnt/before\n  diff -r /etc/mysql /mnt/before/etc/mysql; umount -R /mnt/before"
    )]
    Mount(view::Mount),
    /// Run a command with a held set mounted where nobody else sees it; its exit status is ours
    #[command(
        after_help = "The trees are below the working directory ($SNAPBACK_MOUNT), at their original paths. The mounts go when the command ends.\n\nExamples:\n  snapback snapshot exec latest -- ls -l var/lib/mysql\n  snapback snapshot exec 3f2a -- sh -c 'tar -c . | ssh other tar -x -C /srv/copy'"
    )]
    Exec(view::Exec),
    /// Say which files changed since a held set was taken, by size, times and, on Btrfs, extents; no content is read
    #[command(
        after_help = "Examples:\n  snapback snapshot diff latest\n  snapback snapshot diff 3f2a --json | jq .bytes"
    )]
    Diff(One),
    /// Bring a held set back: all of its volumes, or none
    #[command(after_help = super::rollback::EXAMPLES)]
    Rollback(super::rollback::Rollback),
    /// Copy a held set into the repository, as a backup of its instant
    #[command(after_help = "The set stays. Examples:\n  snapback snapshot backup latest --tag why=before-upgrade")]
    Backup(view::Backup),
    /// Look once at the storage of the held sets: warn, extend or drop as `held:` in the configuration says; for a timer
    #[command(after_help = "Exit status 5 when there is something to read.\n\nExample:\n  snapback snapshot watch")]
    Watch,
}

/// A set.
#[derive(Debug, Args)]
pub(super) struct One {
    /// `latest`, an id or a unique prefix of one, or a label
    #[arg(value_name = "SET")]
    pub set: String,
}

impl Snapshot {
    /// Whether it runs a command of the operator's, which may be given descriptors (`<(...)` of a shell).
    pub fn is_exec(&self) -> bool {
        matches!(self.command, Command::Exec(_))
    }
}

pub(super) fn run(arguments: &Snapshot, context: &Context<'_>) -> Result<Exit> {
    match &arguments.command {
        Command::Create(arguments) => create::run(arguments, context),
        Command::List(arguments) => list::run(arguments, context),
        Command::Show(arguments) => list::show(arguments, context),
        Command::Delete(arguments) => remove::delete(arguments, context),
        Command::Expire(arguments) => remove::expire(arguments, context),
        Command::Mount(arguments) => view::mount(arguments, context),
        Command::Exec(arguments) => view::exec(arguments, context),
        Command::Diff(one) => view::diff(one, context),
        Command::Rollback(arguments) => super::rollback::run(arguments, context),
        Command::Backup(arguments) => view::backup(arguments, context),
        Command::Watch => watch::run(context),
    }
}
