//! The words of flags that stand for the library's enums.

use clap::ValueEnum;

use crate::database::mysql::Feature;
use crate::database::{Consistency, Flavour, OnBusy, Strategy};
use crate::repository::verify::Level;

/// Command-line words for the library's enums.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident => $target:ident { $($(#[$help:meta])* $variant:ident => $value:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
        pub(super) enum $name {
            $($(#[$help])* $variant,)*
        }

        impl From<$name> for $target {
            fn from(word: $name) -> $target {
                match word {
                    $($name::$variant => $target::$value,)*
                }
            }
        }
    };
}

words! {
    /// Levels.
    ConsistencyArgument => Consistency {
        /// Lock, flush, exact position; then a private server recovers, checks and shuts down a clone, which is what is copied
        Clean => Clean,
        /// Lock, flush, exact position
        Application => Application,
        /// No lock: as after a power cut
        Crash => Crash,
    }
}
words! {
    /// Strategies.
    StrategyArgument => Strategy {
        /// The lightest locking one that keeps the promise
        Auto => Auto,
        /// FLUSH TABLES WITH READ LOCK
        Ftwrl => Ftwrl,
        /// MariaDB's BACKUP STAGE
        BackupStage => BackupStage,
        /// MySQL's LOCK INSTANCE FOR BACKUP, then FTWRL for the instant
        Instance => Instance,
        /// No lock; exact position off the copy's own binary log
        Lockless => Lockless,
        /// No lock, no position (level crash)
        None => None,
    }
}
words! {
    /// What to do when busy.
    OnBusyArgument => OnBusy {
        /// Give up at once (status 3)
        Fail => Fail,
        /// Try again later, as often as configured
        Wait => Wait,
        /// End SELECTs that are in the way
        KillReads => KillReads,
        /// End every statement that is in the way
        KillAll => KillAll,
    }
}
words! {
    /// Servers.
    FlavourArgument => Flavour {
        /// MariaDB
        Mariadb => MariaDb,
        /// MySQL
        Mysql => MySql,
    }
}
words! {
    /// What an account is for.
    FeatureArgument => Feature {
        /// `check`, `backup`, `snapshot`
        Backup => Backup,
        /// `binlog archive`
        Binlog => Binlog,
        /// `restore --replica-start`
        Replica => Replica,
        /// `restore --into-server`: all tables can be read and written
        IntoServer => IntoServer,
        /// `--on-busy kill-reads`, `kill-all`
        Kill => Kill,
        /// Raising innodb_flush_log_at_trx_commit for a run
        Durability => Durability,
    }
}
words! {
    /// Levels of verification.
    LevelArgument => Level {
        /// Manifests, tables, maps, footers
        Structure => Structure,
        /// Every byte
        Data => Data,
    }
}
