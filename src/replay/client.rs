//! The serial way: the server's log printer into its client, one transaction after the other.

use std::time::Duration;

use super::{PACKET, Plan, programs, relay};
use crate::Result;
use crate::database::mysql::connect::{ConnectOptions, Secret};
use crate::database::mysql::scratch::{Binary, Scratch, write_client_file};
use crate::sys::pipeline::{self, Stage};
use crate::sys::signal::Cancel;
use crate::sys::user::Account;
use crate::units::Id;

/// The client's account, on the copy and for the replay only.
const ACCOUNT: &str = "snapback-replay";

/// A replay through the client programs of a server.
pub(super) struct Client<'a> {
    pub plan: &'a Plan,
    pub server: &'a Scratch,
    pub binary: &'a Binary,
    /// Whom the server and both programs run as.
    pub user: Option<Account>,
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
        let work = &self.plan.work;
        // The printer puts what a log loads into a file, and the client loads that: with the rights of the server's user, none of root's can be meant.
        let address = ConnectOptions {
            user: ACCOUNT.to_owned(),
            password: Some(Secret::new(password)),
            ..self.server.address().clone()
        };
        let file = write_client_file(work, "client.cnf", &address, self.user)?;
        let mut print = vec!["--no-defaults".to_owned()];
        print.push(format!("--start-position={}", self.plan.from));
        print.push(format!("--stop-position={}", self.plan.position));
        let logs = self.plan.logs.iter();
        for log in logs {
            let path = work.join(&log.file);
            relay::let_read(&path, self.user)?;
            print.push(path.display().to_string());
        }
        let apply = vec![
            format!("--defaults-file={}", file.display()),
            "--binary-mode".to_owned(),
            format!("--max-allowed-packet={PACKET}"),
            "--local-infile=1".to_owned(),
        ];
        pipeline::run(
            &Stage {
                program: &printer,
                arguments: &print,
                user: self.user,
            },
            &Stage {
                program: &client,
                arguments: &apply,
                user: self.user,
            },
            self.cancel,
        )?;
        Ok(session.run(&format!("DROP USER '{ACCOUNT}'@'localhost'"))?)
    }
}
