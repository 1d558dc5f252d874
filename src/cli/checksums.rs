//! `--checksums`, of `backup` and `check`.

use clap::Args;

use crate::config::{Checksums, Config};

/// Which tables' checksums go with a backup; over the configuration.
#[derive(Debug, Args)]
pub(super) struct ChecksumArguments {
    /// Keep checksums of these tables (SCHEMA.TABLE,...), `all` or `none`, read by a private server on a clone of the snapshot
    #[arg(long, value_name = "TABLES", value_parser = str::parse::<Checksums>)]
    checksums: Option<Checksums>,
}

impl ChecksumArguments {
    pub fn apply(&self, config: &mut Config) {
        if let Some(checksums) = &self.checksums {
            config.checksums.clone_from(checksums);
        }
    }
}
