//! The way back to the server that was examined. A connection that broke is never replaced by one to another server, or to the same one started anew.

use std::path::Path;
use std::time::Duration;

use super::connect::ConnectOptions;
use super::grounds::{Grounds, Watch};
use super::peer::{self, Answer};
use super::session::{self, Session};
use crate::database::Result;

/// How a server is reached, and by what it is known.
#[derive(Debug, Clone)]
pub struct SameServer {
    /// How it is reached.
    pub options: ConnectOptions,
    /// Who answered first, as the kernel says.
    pub answer: Answer,
    datadir: std::path::PathBuf,
    watch: Watch,
    first: Grounds,
}

impl SameServer {
    /// Of the session that was opened first.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn of(session: &mut Session, options: &ConnectOptions, watch: Watch, datadir: &Path) -> Result<SameServer> {
        Ok(SameServer {
            options: options.clone(),
            answer: peer::answer(session, datadir),
            datadir: datadir.to_owned(),
            first: watch.read(session)?,
            watch,
        })
    }

    /// What the server said at the beginning.
    pub fn first(&self) -> &Grounds {
        &self.first
    }

    /// What it is asked.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Another session.
    ///
    /// # Errors
    /// As [`Session::open`]; or another server answers.
    pub fn open(&self, limit: Duration) -> Result<Session> {
        self.checked(Session::open(&self.options, limit)?)
    }

    /// The same, that may be idle for as long as a run takes.
    ///
    /// # Errors
    /// As [`open`](SameServer::open).
    pub fn patient(&self, limit: Duration) -> Result<Session> {
        self.checked(Session::patient(&self.options, limit)?)
    }

    /// The same, for everything that is asked outside of a lock.
    ///
    /// # Errors
    /// As [`open`](SameServer::open).
    pub fn admin(&self) -> Result<Session> {
        self.patient(session::PATIENCE)
    }

    fn checked(&self, mut session: Session) -> Result<Session> {
        peer::still(self.answer, &session, &self.datadir)?;
        let now = self.watch.read(&mut session)?;
        self.judge(&now)?;
        Ok(session)
    }

    /// That the server which said this is the one.
    ///
    /// # Errors
    /// Another server answers.
    pub fn judge(&self, now: &Grounds) -> Result<()> {
        now.same_server(&self.first, !matches!(self.answer, Answer::Proved(_)))
    }

    /// Whether the process that answered first is gone. Of one that was never seen nothing is known.
    pub fn has_ended(&self) -> bool {
        matches!(self.answer, Answer::Proved(process) if !process.is_there())
    }

    /// That a session with a lock ends at the same process; asks nothing.
    ///
    /// # Errors
    /// Another process answers.
    pub fn still_under_lock(&self, session: &Session) -> Result<()> {
        peer::still_under_lock(self.answer, session, &self.datadir)
    }
}
