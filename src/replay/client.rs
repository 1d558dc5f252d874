//! The serial way: the server's log printer into its client, one transaction after the other.

use std::time::Duration;

use super::{PACKET, Plan, programs};
use crate::database::mysql::connect::Target;
use crate::database::mysql::scratch::{Binary, Scratch};
use crate::sys::pipeline::{self, Stage};
use crate::sys::signal::Cancel;
use crate::units::Id;
use crate::{Error, Result};

/// The client's account, on the copy and for the replay only.
const ACCOUNT: &str = "snapback-replay";

/// A replay through the client programs of a server.
pub(super) struct Client<'a> {
    pub plan: &'a Plan,
    pub server: &'a Scratch,
    pub binary: &'a Binary,
    pub cancel: &'a Cancel,
}

impl Client<'_> {
    /// Prints the logs into the client. Afterwards its account is gone.
    ///
    /// # Errors
    /// A program is missing, or a statement does not fit the data.
    pub fn run(&self) -> Result<()> {
        let printer = programs::find(self.binary, programs::Kind::Printer)?;
        let client = programs::find(self.binary, programs::Kind::Client)?;
        let mut session = self.server.session(Duration::from_secs(300))?;
        let password = format!("Aa1!{}", Id::random());
        session.run(&format!(
            "CREATE USER '{ACCOUNT}'@'localhost' IDENTIFIED BY '{password}'"
        ))?;
        session.run(&format!(
            "GRANT ALL PRIVILEGES ON *.* TO '{ACCOUNT}'@'localhost' WITH GRANT OPTION"
        ))?;
        let Target::Socket(socket) = &self.server.address().target else {
            return Err(Error::failed("the scratch server has no socket"));
        };
        let work = &self.plan.work;
        let file = work.join("client.cnf");
        let text = format!(
            "[client]\nuser={ACCOUNT}\npassword=\"{password}\"\nsocket=\"{}\"\n",
            socket.display()
        );
        crate::sys::fs::create_durably(&file, text.as_bytes(), 0o600)?;
        let mut print = vec!["--no-defaults".to_owned()];
        print.push(format!("--start-position={}", self.plan.from));
        print.push(format!("--stop-position={}", self.plan.position));
        let logs = self.plan.logs.iter();
        print.extend(logs.map(|log| work.join(&log.file).display().to_string()));
        let apply = vec![
            format!("--defaults-file={}", file.display()),
            "--binary-mode".to_owned(),
            format!("--max-allowed-packet={PACKET}"),
        ];
        pipeline::run(
            &Stage {
                program: &printer,
                arguments: &print,
            },
            &Stage {
                program: &client,
                arguments: &apply,
            },
            self.cancel,
        )?;
        Ok(session.run(&format!("DROP USER '{ACCOUNT}'@'localhost'"))?)
    }
}
