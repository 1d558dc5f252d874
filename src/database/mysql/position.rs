//! Coordinates: the server's own binary log, its executed source positions, prepared XA transactions.
//!
//! All of it comes back in one round trip, because it is read under the lock.

use super::flavour::Dialect;
use super::grounds::{Grounds, Watch};
use super::session::{Answer, Row, Session};
use crate::database::{Coordinates, Position, ReplicaChannel, Result, ServerFacts};
use crate::finding::Finding;

/// Which statements make up the coordinates of a server, decided before the lock.
#[derive(Debug, Clone)]
pub struct Reader {
    dialect: Dialect,
    log_bin: bool,
    replica: bool,
    prepared_xa: bool,
    /// Whether every transaction gets a GTID, so that an unchanged GTID state means unchanged data.
    gtids_tell: bool,
    watch: Watch,
}

/// What one reading gave.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// The coordinates.
    pub coordinates: Coordinates,
    /// The connection that read them.
    pub connection: u64,
    /// Temporary tables of the applier that statement-based replication still needs (trap 17).
    pub open_temp_tables: u64,
    /// What exactness stands on, in the same round trip.
    pub grounds: Grounds,
}

impl Reader {
    /// Finds out, outside of any lock, what the server has to tell: whether it is a replica, and whether XA RECOVER is allowed.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn prepare(session: &mut Session, dialect: Dialect, facts: &ServerFacts, watch: &Watch) -> Result<Reader> {
        // Without the privilege the replica part cannot be read; the privilege check has said so.
        let replica = session
            .rows(dialect.show_replicas())
            .is_ok_and(|rows| rows.iter().any(is_replica));
        let prepared_xa = session.run("XA RECOVER").is_ok();
        let gtids_tell = dialect.is_mariadb() || facts.variables.get("gtid_mode").is_some_and(|mode| mode == "ON");
        Ok(Reader {
            dialect,
            log_bin: facts.log_bin,
            replica,
            prepared_xa,
            gtids_tell,
            watch: watch.clone(),
        })
    }

    /// Whether two readings mean the same data. Events that are no transaction may move the position under a lock: a new log
    /// (FLUSH LOGS), or the checkpoint that MariaDB writes into it a moment later.
    pub fn same_data(&self, before: &Reading, after: &Reading) -> bool {
        // What has no GTID (gtid_mode was changed) is not seen by GTIDs.
        let mode = |reading: &Reading| reading.grounds.get("gtid_mode").is_none_or(|mode| mode == "ON");
        let tell = self.gtids_tell && mode(before) && mode(after);
        match (&before.coordinates.position, &after.coordinates.position) {
            (Some(before), Some(after)) => {
                before == after || (tell && before.gtid.is_some() && before.gtid == after.gtid)
            }
            (before, after) => before == after,
        }
    }

    /// Whether the server replicates from another one.
    pub fn is_replica(&self) -> bool {
        self.replica
    }

    fn statements(&self) -> Vec<String> {
        let mut statements = vec![match self.dialect.is_mariadb() {
            true => {
                "SELECT CONNECTION_ID() AS id, @@global.gtid_binlog_pos AS gtid, @@global.gtid_slave_pos AS slave_gtid"
            }
            false => "SELECT CONNECTION_ID() AS id, @@global.gtid_executed AS gtid",
        }];
        if self.log_bin {
            statements.push(self.dialect.show_position());
        }
        if self.replica {
            statements.push(self.dialect.show_replicas());
            statements.push("SHOW GLOBAL STATUS LIKE '%open_temp_tables'");
        }
        if self.prepared_xa {
            statements.push("XA RECOVER");
        }
        let mut statements: Vec<String> = statements.into_iter().map(str::to_owned).collect();
        statements.extend(self.watch.statements());
        statements
    }

    /// Reads everything in one round trip.
    ///
    /// # Errors
    /// The server cannot be asked, or gave no position.
    pub fn read(&self, session: &mut Session) -> Result<Reading> {
        self.read_then(session, &[])
    }

    /// Reads everything and then runs `last` (the unlock), in one round trip.
    ///
    /// # Errors
    /// As [`read`](Reader::read); `last` may not have run then.
    pub fn read_then(&self, session: &mut Session, last: &[&str]) -> Result<Reading> {
        let mut statements = self.statements();
        statements.extend(last.iter().map(|statement| (*statement).to_owned()));
        let answers = session.batch(&statements.join("; "))?;
        Ok(self.understand(answers))
    }

    fn understand(&self, answers: Vec<Answer>) -> Reading {
        let mut answers = answers.into_iter().map(|answer| answer.rows);
        let mut next = |wanted: bool| {
            if wanted {
                answers.next().unwrap_or_default()
            } else {
                Vec::new()
            }
        };
        let own = next(true).into_iter().next().unwrap_or_default();
        let binlog = next(self.log_bin).into_iter().next();
        let channels = next(self.replica);
        let temporary = next(self.replica);
        let xa = next(self.prepared_xa);
        let (settings, status) = (next(true), next(true));
        let replica_gtid = own.get(if self.dialect.is_mariadb() {
            "slave_gtid"
        } else {
            "gtid"
        });
        let replica = channels
            .iter()
            .filter(|row| is_replica(row))
            .map(|row| channel(row, replica_gtid));
        Reading {
            coordinates: Coordinates {
                position: binlog.map(|row| position(&row, own.get("gtid"))),
                replica: replica.collect(),
                prepared_xa: xa.iter().map(xid).collect(),
            },
            connection: own.number("id").unwrap_or(0),
            open_temp_tables: temporary
                .first()
                .and_then(|row| row.values().nth(1)?.and_then(|n| n.parse().ok()))
                .unwrap_or(0),
            grounds: self.watch.understand(&settings, &status),
        }
    }
}

fn without_space(gtid: &str) -> Option<String> {
    let text: String = gtid.chars().filter(|c| !c.is_whitespace()).collect();
    (!text.is_empty()).then_some(text)
}

fn position(row: &Row, gtid: Option<&str>) -> Position {
    Position {
        file: row.text("File"),
        position: row.number("Position").unwrap_or(0),
        gtid: row
            .get("Executed_Gtid_Set")
            .filter(|gtid| !gtid.is_empty())
            .or(gtid)
            .and_then(without_space),
    }
}

/// Group replication's own channels carry no position of a source.
fn is_replica(row: &Row) -> bool {
    let name = row.text("Channel_Name");
    let host = either(row, "Source_Host", "Master_Host");
    !name.starts_with("group_replication_") && host.is_some_and(|host| !host.is_empty())
}

fn either<'a>(row: &'a Row, new: &str, old: &str) -> Option<&'a str> {
    row.get(new).or_else(|| row.get(old))
}

/// The *executed* position (trap 17): the relay log's source file and offset, not what has been read.
fn channel(row: &Row, gtid: Option<&str>) -> ReplicaChannel {
    let number = |new: &str, old: &str| either(row, new, old).and_then(|text| text.parse().ok());
    ReplicaChannel {
        channel: either(row, "Channel_Name", "Connection_name")
            .unwrap_or_default()
            .to_owned(),
        source_host: either(row, "Source_Host", "Master_Host").unwrap_or_default().to_owned(),
        source_port: number("Source_Port", "Master_Port")
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or(0),
        file: either(row, "Relay_Source_Log_File", "Relay_Master_Log_File")
            .unwrap_or_default()
            .to_owned(),
        position: number("Exec_Source_Log_Pos", "Exec_Master_Log_Pos").unwrap_or(0),
        gtid: row
            .get("Executed_Gtid_Set")
            .filter(|set| !set.is_empty())
            .or(gtid)
            .and_then(without_space),
        uses_gtid: row.get("Auto_Position") == Some("1") || row.get("Using_Gtid").is_some_and(|how| how != "No"),
        delay: row.number("SQL_Delay").unwrap_or(0),
        running: either(row, "Replica_SQL_Running", "Slave_SQL_Running") == Some("Yes"),
    }
}

fn xid(row: &Row) -> String {
    format!(
        "formatID={} gtrid_length={} bqual_length={} data={}",
        row.text("formatID"),
        row.text("gtrid_length"),
        row.text("bqual_length"),
        row.text("data")
    )
}

/// What a person should know about a replica.
pub fn replica_findings(reader: &Reader, workers: u32, in_order: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if reader.is_replica() && workers > 1 && !reader.gtids_tell {
        findings.push(
            Finding::warning(
                "parallel-applier",
                format!(
                    "the replica applies with {workers} workers and without GTIDs: its executed position lags behind its data, \
                     so a restored replica that starts there may apply transactions twice"
                ),
            )
            .remedy("switch gtid_mode on, or set replica_parallel_workers to 1"),
        );
    }
    if reader.is_replica() && in_order {
        findings.push(
            Finding::note(
                "applier-in-order",
                "the replica's workers commit in order, which a global read lock can meet halfway: under load it takes many \
                 brief tries to get the lock",
            )
            .remedy("use strategy `lockless` on this replica"),
        );
    }
    findings
}

/// MySQL's encryption puts a header of so many bytes before a log's events; positions do not count it, the listed size does.
const ENCRYPTION_HEADER: u64 = 512;

/// The server's binary logs, oldest first, each with the position where it ends.
///
/// # Errors
/// The server cannot be asked.
pub fn binary_logs(session: &mut Session) -> Result<Vec<(String, u64)>> {
    let rows = session.rows("SHOW BINARY LOGS")?;
    Ok(rows.iter().filter_map(binary_log).collect())
}

fn binary_log(row: &Row) -> Option<(String, u64)> {
    let header = if row.text("Encrypted") == "Yes" {
        ENCRYPTION_HEADER
    } else {
        0
    };
    let size: u64 = row.number("File_size")?;
    Some((row.text("Log_name"), size.saturating_sub(header)))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::database::Flavour;

    fn answer(rows: Vec<Row>) -> Answer {
        Answer {
            rows,
            at: Instant::now(),
        }
    }

    #[test]
    fn a_mariadb_primary() {
        let dialect = Dialect {
            flavour: Flavour::MariaDb,
            version: (10, 11, 19),
        };
        let reader = Reader {
            dialect,
            log_bin: true,
            replica: false,
            prepared_xa: true,
            gtids_tell: true,
            watch: Watch::default(),
        };
        assert_eq!(reader.statements().len(), 5);
        let reading = reader.understand(vec![
            answer(vec![Row::of(&[
                ("id", Some("9")),
                ("gtid", Some("0-1-5")),
                ("slave_gtid", Some("")),
            ])]),
            answer(vec![Row::of(&[
                ("File", Some("bin.000002")),
                ("Position", Some("1234")),
            ])]),
            answer(vec![Row::of(&[
                ("formatID", Some("1")),
                ("gtrid_length", Some("1")),
                ("bqual_length", Some("0")),
                ("data", Some("x")),
            ])]),
        ]);
        let expected = Position {
            file: "bin.000002".into(),
            position: 1234,
            gtid: Some("0-1-5".into()),
        };
        assert_eq!(reading.coordinates.position, Some(expected));
        assert_eq!(reading.connection, 9);
        assert_eq!(
            reading.coordinates.prepared_xa,
            ["formatID=1 gtrid_length=1 bqual_length=0 data=x"]
        );
    }

    #[test]
    fn a_mysql_replica_with_two_channels() {
        let dialect = Dialect {
            flavour: Flavour::MySql,
            version: (9, 7, 4),
        };
        let reader = Reader {
            dialect,
            log_bin: true,
            replica: true,
            prepared_xa: false,
            gtids_tell: true,
            watch: Watch::default(),
        };
        let channel = |name: &'static str, file: &'static str| {
            Row::of(&[
                ("Source_Host", Some("db1")),
                ("Source_Port", Some("3306")),
                ("Source_Log_File", Some("bin.000009")),
                ("Read_Source_Log_Pos", Some("999")),
                ("Relay_Source_Log_File", Some(file)),
                ("Exec_Source_Log_Pos", Some("4000000000")),
                ("Replica_SQL_Running", Some("Yes")),
                ("Executed_Gtid_Set", Some("a:1-5,\nb:1")),
                ("Auto_Position", Some("1")),
                ("Channel_Name", Some(name)),
            ])
        };
        let reading = reader.understand(vec![
            answer(vec![Row::of(&[("id", Some("3")), ("gtid", Some("a:1-5,\nb:1"))])]),
            answer(vec![Row::of(&[
                ("File", Some("own.000001")),
                ("Position", Some("4")),
                ("Executed_Gtid_Set", Some("a:1-5,\nb:1")),
            ])]),
            answer(vec![
                channel("", "bin.000007"),
                channel("group_replication_applier", "x"),
            ]),
            answer(vec![Row::of(&[
                ("Variable_name", Some("Replica_open_temp_tables")),
                ("Value", Some("2")),
            ])]),
        ]);
        assert_eq!(reading.open_temp_tables, 2);
        assert_eq!(reading.coordinates.replica.len(), 1);
        let channel = &reading.coordinates.replica[0];
        assert_eq!((channel.file.as_str(), channel.position), ("bin.000007", 4_000_000_000));
        assert_eq!(channel.gtid.as_deref(), Some("a:1-5,b:1"));
        assert!(channel.running && channel.uses_gtid);
    }

    #[test]
    fn a_mariadb_channel_says_whether_it_goes_by_gtids() {
        for (how, uses_gtid) in [("No", false), ("Slave_Pos", true), ("Current_Pos", true)] {
            let row = Row::of(&[("Master_Host", Some("db1")), ("Using_Gtid", Some(how))]);
            assert_eq!(channel(&row, Some("0-1-5")).uses_gtid, uses_gtid, "{how}");
        }
    }

    #[test]
    fn an_encrypted_log_ends_where_its_positions_end() {
        let row = |encrypted| {
            Row::of(&[
                ("Log_name", Some("b.1")),
                ("File_size", Some("1512")),
                ("Encrypted", encrypted),
            ])
        };
        assert_eq!(binary_log(&row(Some("Yes"))), Some(("b.1".to_owned(), 1000)));
        assert_eq!(binary_log(&row(Some("No"))), Some(("b.1".to_owned(), 1512)));
        assert_eq!(binary_log(&row(None)), Some(("b.1".to_owned(), 1512)));
    }
}
