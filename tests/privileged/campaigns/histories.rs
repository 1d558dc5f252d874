//! Random histories: rows, rotations, crashes with torn ends, RESET, rollbacks, while logs are archived and backups taken. A point in time then is
//! that point, to the row, or it is refused with a reason. Wrong points: none.

use std::collections::BTreeSet;
use std::io::Write;

use mysql::prelude::Queryable;

use super::Random;
use crate::common::server::mysql_prefix;
use crate::common::{Flavour, Server, both, rounds, text};
use crate::setting::{AS_ROOT, Scene};

/// What was true right behind a change.
struct Truth {
    gtid: String,
    place: String,
    rows: BTreeSet<u64>,
    /// Whether it belongs to what the server threw away since.
    discarded: bool,
}

struct Campaign {
    scene: Scene,
    random: Random,
    truths: Vec<Truth>,
    rows: BTreeSet<u64>,
    /// Those that were there when the logs were begun.
    begin: BTreeSet<u64>,
    next: u64,
    labels: u64,
}

impl Campaign {
    fn new(flavour: Flavour) -> Option<Campaign> {
        let gtid = [("gtid-mode", "ON"), ("enforce-gtid-consistency", "ON")];
        let options = match flavour {
            Flavour::MariaDb => &[][..],
            Flavour::MySql => &gtid,
        };
        let scene = Scene::new(flavour, options, true, AS_ROOT)?;
        scene
            .server
            .exec("CREATE TABLE ledger.points (a BIGINT PRIMARY KEY) ENGINE=InnoDB");
        Some(Campaign {
            scene,
            random: Random::new(),
            truths: Vec::new(),
            rows: BTreeSet::new(),
            begin: BTreeSet::new(),
            next: 1,
            labels: 0,
        })
    }

    fn mariadb(&self) -> bool {
        self.scene.mariadb()
    }

    /// One row.
    fn insert(&mut self) {
        let (value, server) = (self.next, &self.scene.server);
        self.next += 1;
        server.exec(&format!("INSERT INTO ledger.points VALUES ({value})"));
        self.rows.insert(value);
        let statement = if self.mariadb() {
            "SHOW MASTER STATUS"
        } else {
            "SHOW BINARY LOG STATUS"
        };
        let row: mysql::Row = server.connect().query_first(statement).unwrap().unwrap();
        let (file, position): (String, u64) = (row.get(0).unwrap(), row.get(1).unwrap());
        let gtid = match self.mariadb() {
            true => server.one("SELECT @@GLOBAL.gtid_binlog_pos"),
            false => {
                let executed: String = server.one("SELECT @@GLOBAL.gtid_executed");
                let (uuid, numbers) = executed
                    .trim()
                    .rsplit_once(',')
                    .map_or(executed.trim(), |(_, last)| last)
                    .split_once(':')
                    .unwrap();
                format!("{}:{}", uuid.trim(), numbers.rsplit(['-', ':']).next().unwrap())
            }
        };
        self.truths.push(Truth {
            gtid,
            place: format!("{file}:{position}"),
            rows: self.rows.clone(),
            discarded: false,
        });
    }

    fn archive(&self) {
        self.scene.tool.json_with(&["binlog", "archive", "--once"], &[0, 5]);
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0..7 => self.insert(),
            7..9 => self.scene.server.exec("FLUSH BINARY LOGS"),
            9..12 => self.archive(),
            12 => drop(self.scene.tool.json_with(&["backup"], &[0, 5])),
            13 => self.crash(),
            14 => self.go_back(),
            _ if self.random.below(3) == 0 => self.reset(),
            _ => self.insert(),
        }
    }

    /// The server dies, and leaves half an event where it is MariaDB, which leaves it there.
    fn crash(&mut self) {
        let logs = self.scene.server.binary_logs();
        self.scene.server.kill();
        if self.mariadb() && self.random.below(2) == 0 {
            let last = logs.last().unwrap();
            let bytes = std::fs::read(last).unwrap();
            let torn = bytes[bytes.len().saturating_sub(160)..].to_vec();
            let mut file = std::fs::File::options().append(true).open(last).unwrap();
            file.write_all(&torn[..70.min(torn.len())]).unwrap();
        }
        self.scene.server.start();
    }

    /// To a held set, behind which some rows came: archived or not.
    fn go_back(&mut self) {
        self.labels += 1;
        let label = format!("set-{}", self.labels);
        self.scene
            .tool
            .json_with(&["snapshot", "create", "--label", &label], &[0, 5]);
        let (rows, known) = (self.rows.clone(), self.truths.len());
        for _ in 0..=self.random.below(3) {
            self.insert();
        }
        if self.random.below(2) == 0 {
            self.archive();
        }
        self.scene.server.stop();
        self.scene
            .tool
            .json_with(&["snapshot", "rollback", &label, "--yes", "--with-files"], &[0, 5]);
        self.scene.server.start();
        self.rows = rows;
        self.truths[known..].iter_mut().for_each(|truth| truth.discarded = true);
    }

    fn reset(&mut self) {
        self.scene.server.exec(match self.mariadb() {
            true => "RESET MASTER",
            false => "RESET BINARY LOGS AND GTIDS",
        });
        self.truths.iter_mut().for_each(|truth| truth.discarded = true);
        self.begin = self.rows.clone();
    }

    /// Restores to the point; `None`: it was refused, with a reason.
    fn restore(&self, point: &str) -> Option<BTreeSet<u64>> {
        let datadir = self.scene.lab.path("then");
        let name = text(&datadir);
        let mysqld = text(&mysql_prefix().join("bin/mysqld97"));
        let mut arguments = vec!["restore", "latest", "--datadir", &name, "--until", point];
        if !self.mariadb() {
            arguments.extend(["--mysqld", &mysqld]);
        }
        let output = self.scene.tool.run(&arguments);
        let said = both(&output);
        match output.status.code() {
            Some(0 | 5) => {}
            Some(2) => {
                assert!(
                    said.contains("leads to that point") || said.contains("lines of history"),
                    "{said}"
                );
                return None;
            }
            _ => panic!("{point}: {said}"),
        }
        let run = self.scene.lab.path("then-run");
        let mut server = Server::on(self.scene.server.flavour, &datadir, &run, &[]);
        let count: u64 = server.one("SELECT COUNT(*) FROM ledger.points");
        let rows: Option<String> = server.one("SELECT GROUP_CONCAT(a ORDER BY a) FROM ledger.points");
        server.stop();
        std::fs::remove_dir_all(&datadir).unwrap();
        std::fs::remove_dir_all(&run).unwrap();
        let rows: BTreeSet<u64> = rows
            .unwrap_or_default()
            .split(',')
            .filter_map(|row| row.parse().ok())
            .collect();
        assert_eq!(rows.len() as u64, count);
        Some(rows)
    }

    /// What the server's present history has up to a place.
    fn at_place(&self, place: &str) -> BTreeSet<u64> {
        let order = |place: &str| -> (u64, u64) {
            let (file, position) = place.rsplit_once(':').unwrap();
            let number = file.rsplit_once('.').unwrap().1;
            (number.parse().unwrap(), position.parse().unwrap())
        };
        let mut kept = self.truths.iter().filter(|truth| !truth.discarded);
        let before = kept.rfind(|truth| order(&truth.place) <= order(place));
        before.map_or_else(|| self.begin.clone(), |truth| truth.rows.clone())
    }

    /// Wrong is what is none of the states that had this name.
    fn check(&mut self, exact: &mut u64, refused: &mut u64) {
        let index = self.random.below(self.truths.len() as u64) as usize;
        let by_gtid = self.random.below(2) == 0;
        let name = |truth: &Truth| {
            if by_gtid {
                truth.gtid.clone()
            } else {
                truth.place.clone()
            }
        };
        let point = name(&self.truths[index]);
        let states: Vec<&Truth> = self.truths.iter().filter(|truth| name(truth) == point).collect();
        match self.restore(&point) {
            Some(rows) => {
                // A name that was given twice is refused, or it is what the server still has under it. A place may be one of a log that was thrown away before it was
                // archived: then it is a place in the log that has the name now.
                let right = |truth: &&Truth| truth.rows == rows && (states.len() == 1 || !truth.discarded);
                let now = || !by_gtid && self.at_place(&point) == rows;
                assert!(
                    states.iter().any(right) || now(),
                    "{point} gives {rows:?}, {} states have that name, as {:?}",
                    states.len(),
                    states[0].rows
                );
                *exact += 1;
            }
            None => *refused += 1,
        }
    }
}

fn histories(flavour: Flavour, few: u64) {
    let points = rounds(few);
    let (mut exact, mut refused) = (0, 0);
    while exact + refused < points {
        let Some(mut campaign) = Campaign::new(flavour) else {
            return;
        };
        campaign.scene.tool.json_with(&["backup"], &[0, 5]);
        campaign.insert();
        for _ in 0..24 {
            campaign.step();
        }
        campaign.archive();
        for _ in 0..5.min(points - exact - refused) {
            campaign.check(&mut exact, &mut refused);
        }
        // Nothing that a backup needs goes.
        campaign.scene.tool.json(&["binlog", "forget"]);
        campaign.scene.tool.ok(&["verify", "--all"]);
    }
    eprintln!("{flavour:?}: {exact} points exact, {refused} refused, 0 wrong");
}

#[test]
fn mariadb_points_of_random_histories_are_exact_or_refused() {
    histories(Flavour::MariaDb, 10);
}

#[test]
fn mysql_points_of_random_histories_are_exact_or_refused() {
    histories(Flavour::MySql, 5);
}
