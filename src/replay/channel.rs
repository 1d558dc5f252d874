//! A replication channel of the replay's own on the private server, which has relay logs and no source: only its applier is ever started.

use crate::database::mysql::session::{Row, Session};
use crate::database::{Flavour, Result};

/// Its name: no other channel of the copy is touched.
pub(super) const CHANNEL: &str = "snapback_replay";

/// What a worker says that has nothing to do, and the applier that has read all.
const IDLE: &[&str] = &[
    "Waiting for work from SQL thread",
    "Waiting for an event from Coordinator",
    "has read all relay log",
];

/// The channel, in the words of its server.
pub(super) struct Channel {
    session: Session,
    flavour: Flavour,
}

/// What the applier says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    /// The relay log of the last transaction that is applied.
    pub file: String,
    /// Its end in there.
    pub position: u64,
    pub runs: bool,
    /// The applier has nothing more to hand to its workers; these may still be at work.
    pub read_all: bool,
    /// Why it stopped.
    pub error: String,
}

impl Channel {
    pub fn new(session: Session, flavour: Flavour) -> Channel {
        Channel { session, flavour }
    }

    /// The server's own session, for everything else.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Makes it: the applier begins at this offset of the relay log, which is this log of the server that was backed up.
    ///
    /// # Errors
    /// The server does not take it.
    pub fn create(&mut self, relay_log: &str, log: &str, position: u64) -> Result<()> {
        let statement = match self.flavour {
            // Without the name of a log MariaDB (10.11) follows a null pointer in its first worker.
            Flavour::MariaDb => format!(
                "CHANGE MASTER '{CHANNEL}' TO MASTER_HOST='none', MASTER_LOG_FILE='{log}', MASTER_LOG_POS={position}, \
                 RELAY_LOG_FILE='{relay_log}', RELAY_LOG_POS={position}, MASTER_USE_GTID=no"
            ),
            Flavour::MySql => format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='none', SOURCE_AUTO_POSITION=0, \
                 RELAY_LOG_FILE='{relay_log}', RELAY_LOG_POS={position} FOR CHANNEL '{CHANNEL}'"
            ),
        };
        self.session.run(&statement)
    }

    /// Starts its applier.
    ///
    /// # Errors
    /// The server does not.
    pub fn start(&mut self) -> Result<()> {
        self.session.run(&match self.flavour {
            Flavour::MariaDb => format!("START SLAVE '{CHANNEL}' SQL_THREAD"),
            Flavour::MySql => format!("START REPLICA SQL_THREAD FOR CHANNEL '{CHANNEL}'"),
        })
    }

    /// Stops it. Workers end what they have begun.
    ///
    /// # Errors
    /// The server does not.
    pub fn stop(&mut self) -> Result<()> {
        self.session.run(&match self.flavour {
            Flavour::MariaDb => format!("STOP SLAVE '{CHANNEL}' SQL_THREAD"),
            Flavour::MySql => format!("STOP REPLICA SQL_THREAD FOR CHANNEL '{CHANNEL}'"),
        })
    }

    /// Forgets it, with its relay logs, files and rows.
    ///
    /// # Errors
    /// The server does not, or there is none.
    pub fn remove(&mut self) -> Result<()> {
        self.session.run(&match self.flavour {
            Flavour::MariaDb => format!("RESET SLAVE '{CHANNEL}' ALL"),
            Flavour::MySql => format!("RESET REPLICA ALL FOR CHANNEL '{CHANNEL}'"),
        })
    }

    /// How far it is.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn status(&mut self) -> Result<Status> {
        let rows = self.session.rows(&match self.flavour {
            Flavour::MariaDb => format!("SHOW SLAVE '{CHANNEL}' STATUS"),
            Flavour::MySql => format!("SHOW REPLICA STATUS FOR CHANNEL '{CHANNEL}'"),
        })?;
        let row = rows.into_iter().next().unwrap_or_default();
        let word = match self.flavour {
            Flavour::MariaDb => "Slave",
            Flavour::MySql => "Replica",
        };
        Ok(Status {
            file: row.text("Relay_Log_File"),
            position: row.number("Relay_Log_Pos").unwrap_or(0),
            runs: row.text(&format!("{word}_SQL_Running")) == "Yes",
            read_all: row.text(&format!("{word}_SQL_Running_State")).contains(IDLE[2]),
            error: row.text("Last_SQL_Error"),
        })
    }

    /// Neither the applier nor a worker has anything to do.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn is_idle(&mut self) -> Result<bool> {
        let ours = |row: &&Row| row.text("User") == "system user" && row.text("Command") != "Daemon";
        let idle = |row: &Row| IDLE.iter().any(|words| row.text("State").contains(words));
        Ok(self.session.rows("SHOW PROCESSLIST")?.iter().filter(ours).all(idle))
    }
}
