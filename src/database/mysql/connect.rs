//! Where the server is and how to be let in: configuration, option file and environment made into one answer.
//!
//! Order, the first that says something wins: the configuration's `server:` keys, `SNAPBACK_MYSQL_PASSWORD`, the option file
//! (`[client]` groups, then `[snapback]`), `MYSQL_PWD`, and last the defaults: `root` over the local socket.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::option_file::{Entry, OptionFile};
use crate::config::Server;
use crate::database::{Error, Result};
use crate::sys;

/// Groups of an option file that are read, besides [`OWN_GROUP`].
const CLIENT_GROUPS: [&str; 4] = ["client", "client-server", "client-mariadb", "mysql"];
/// The group that wins over the others, and in which an unknown key is an error.
const OWN_GROUP: &str = "snapback";

/// `ER_CON_COUNT_ERROR`.
const TOO_MANY_CONNECTIONS: u16 = 1040;
/// `ER_TOO_MANY_USER_CONNECTIONS`.
const TOO_MANY_OF_USER: u16 = 1203;
/// `ER_USER_LIMIT_REACHED`: connections or statements of the account.
const QUOTA: u16 = 1226;
/// `ER_ACCESS_DENIED_ERROR`.
const ACCESS_DENIED: u16 = 1045;

/// Where servers put their socket by default: Debian, RHEL, upstream builds.
const DEFAULT_SOCKETS: [&str; 4] = [
    "/run/mysqld/mysqld.sock",
    "/var/lib/mysql/mysql.sock",
    "/run/mysql/mysql.sock",
    "/tmp/mysql.sock",
];

/// A text that never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the driver and for files that only their owner may read.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Socket or TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A Unix socket.
    Socket(PathBuf),
    /// Host and port.
    Tcp(String, u16),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Socket(path) => write!(f, "socket {}", path.display()),
            Target::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// What is asked of TLS on TCP, in the words of `ssl-mode`; a Unix socket needs none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsMode {
    /// Never.
    Disabled,
    /// Where the server offers it, the certificate unchecked. The default for a loopback address.
    Preferred,
    /// Always, the certificate unchecked. The default for any other address.
    Required,
    /// Always, and the certificate is signed by `ssl-ca`; without one it is as `VerifyIdentity`. The default with `ssl-ca`.
    VerifyCa,
    /// Always, and the certificate is the host's, signed by `ssl-ca` or, without one, by a public authority.
    VerifyIdentity,
}

/// TLS settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// How much is asked.
    pub mode: TlsMode,
    /// PEM file of authorities.
    pub ca: Option<PathBuf>,
    /// Client certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// PEM file of the server's RSA key, for which a password may be encrypted where there is no TLS.
    pub server_public_key: Option<PathBuf>,
}

/// Everything that a connection needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Where.
    pub target: Target,
    /// Account.
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
    /// TLS.
    pub tls: Tls,
    /// The longest that reaching the server and being let in may take.
    pub connect_timeout: Duration,
}

/// What the option file says, before defaults.
#[derive(Default)]
struct Wishes {
    user: Option<String>,
    password: Option<Secret>,
    socket: Option<PathBuf>,
    host: Option<String>,
    port: Option<u16>,
    tcp: Option<bool>,
    mode: Option<TlsMode>,
    verify: Option<bool>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    server_public_key: Option<PathBuf>,
    connect_timeout: Option<Duration>,
}

impl ConnectOptions {
    /// Makes the options from the configuration, its option file and the process's environment.
    ///
    /// # Errors
    /// The option file is wrong, or lets others read a password.
    pub fn new(server: &Server) -> Result<ConnectOptions> {
        ConnectOptions::with_environment(server, |name| std::env::var(name).ok())
    }

    /// The same with an environment of the caller's.
    ///
    /// # Errors
    /// As [`new`](ConnectOptions::new).
    pub fn with_environment(server: &Server, environment: impl Fn(&str) -> Option<String>) -> Result<ConnectOptions> {
        let wishes = match &server.defaults_file {
            Some(path) => Wishes::from_file(path)?,
            None => Wishes::default(),
        };
        let target = target(server, &wishes);
        if matches!(target, Target::Tcp(..)) {
            wishes.check_tls_files()?;
        }
        let password = environment(crate::sys::PASSWORD_VARIABLE)
            .map(Secret::new)
            .or(wishes.password.clone())
            .or_else(|| environment("MYSQL_PWD").map(Secret::new));
        Ok(ConnectOptions {
            user: server
                .user
                .clone()
                .or(wishes.user.clone())
                .unwrap_or_else(|| "root".into()),
            password,
            tls: wishes.tls(&target),
            connect_timeout: wishes.connect_timeout.unwrap_or(Duration::from_secs(10)),
            target,
        })
    }

    /// How the server is reached, as lines of an option file: another account comes to the same one by them.
    pub fn option_lines(&self) -> String {
        let mut lines = Vec::new();
        match &self.target {
            Target::Socket(path) => lines.push(("socket", path.display().to_string())),
            Target::Tcp(host, port) => {
                lines.push(("protocol", "tcp".to_owned()));
                lines.push(("host", host.clone()));
                lines.push(("port", port.to_string()));
            }
        }
        if self.tls != Wishes::default().tls(&self.target) {
            lines.push(("ssl-mode", self.tls.mode.word().to_owned()));
        }
        let file = |key: &'static str, path: &Path| (key, path.display().to_string());
        lines.extend(self.tls.ca.iter().map(|path| file("ssl-ca", path)));
        if let Some((certificate, key)) = &self.tls.identity {
            lines.extend([file("ssl-cert", certificate), file("ssl-key", key)]);
        }
        let public = self.tls.server_public_key.iter();
        lines.extend(public.map(|path| file("server-public-key-path", path)));
        lines
            .iter()
            .map(|(key, value)| format!("{key}={}\n", quoted(value)))
            .collect()
    }

    /// The account and the address, for messages.
    pub fn address(&self) -> String {
        self.target.to_string()
    }
}

/// A value as the servers' reader takes it: without quotes where that means the same.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@+,".contains(c);
    match value.chars().all(plain) {
        true => value.to_owned(),
        false => format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

impl TlsMode {
    /// As `ssl-mode` has it.
    fn word(self) -> &'static str {
        match self {
            TlsMode::Disabled => "DISABLED",
            TlsMode::Preferred => "PREFERRED",
            TlsMode::Required => "REQUIRED",
            TlsMode::VerifyCa => "VERIFY_CA",
            TlsMode::VerifyIdentity => "VERIFY_IDENTITY",
        }
    }
}

/// The configuration's socket or host wins as a whole over the option file's; `localhost` means the socket, as with the stock clients.
fn target(server: &Server, wishes: &Wishes) -> Target {
    let port = server.port.or(wishes.port).unwrap_or(3306);
    if let Some(socket) = &server.socket {
        return Target::Socket(socket.clone());
    }
    let (host, tcp) = match &server.host {
        Some(host) => (Some(host), server.port.is_some().then_some(true).or(wishes.tcp)),
        None => (wishes.host.as_ref(), wishes.tcp),
    };
    let socket = || {
        let given = wishes
            .socket
            .clone()
            .filter(|_| server.host.is_none() || host.is_some_and(|h| h == "localhost"));
        Target::Socket(given.unwrap_or_else(default_socket))
    };
    match (host, tcp) {
        (_, Some(false)) | (None, None) => socket(),
        (Some(host), None) if host == "localhost" => socket(),
        (Some(host), _) => Target::Tcp(host.clone(), port),
        (None, Some(true)) => Target::Tcp("localhost".into(), port),
    }
}

fn default_socket() -> PathBuf {
    let candidates = DEFAULT_SOCKETS.map(Path::new);
    let found = candidates.iter().find(|path| path.exists());
    found.unwrap_or(&candidates[0]).to_path_buf()
}

impl Wishes {
    fn from_file(path: &Path) -> Result<Wishes> {
        let file = OptionFile::read(path)?;
        let mut wishes = Wishes::default();
        for entry in file.in_groups(&CLIENT_GROUPS) {
            // Other clients' options are none of our business.
            wishes.take(entry)?;
        }
        for entry in file.in_groups(&[OWN_GROUP]) {
            if !wishes.take(entry)? {
                return Err(entry.wrong(format!("unknown option `{}` in [{OWN_GROUP}]", entry.key)));
            }
        }
        Ok(wishes)
    }

    /// Takes one entry; `Ok(false)` when its key is not known.
    fn take(&mut self, entry: &Entry) -> Result<bool> {
        let text = || {
            let value = entry.text()?.map(str::to_owned);
            value.ok_or_else(|| entry.wrong(format!("`{}` needs a value", entry.key)))
        };
        let path = || text().map(PathBuf::from);
        match entry.key.as_str() {
            "user" => self.user = Some(text()?),
            "password" | "password1" => {
                if let Some(password) = entry.text()? {
                    entry.check_private()?;
                    self.password = Some(Secret::new(password));
                }
            }
            "socket" => self.socket = Some(path()?),
            "host" => self.host = Some(text()?),
            "port" => self.port = Some(number(entry, &text()?)?),
            "protocol" => self.tcp = Some(protocol(entry, &text()?)?),
            "connect-timeout" => self.connect_timeout = Some(Duration::from_secs(number(entry, &text()?)?)),
            "ssl-mode" => self.mode = Some(tls_mode(entry, &text()?)?),
            "ssl" => {
                self.mode = Some(if truth(entry)? {
                    TlsMode::Required
                } else {
                    TlsMode::Disabled
                })
            }
            "skip-ssl" | "disable-ssl" => self.mode = Some(TlsMode::Disabled),
            "ssl-verify-server-cert" => self.verify = Some(truth(entry)?),
            "skip-ssl-verify-server-cert" | "disable-ssl-verify-server-cert" => self.verify = Some(false),
            "ssl-ca" => self.ca = Some(path()?),
            "ssl-cert" => self.cert = Some(path()?),
            "ssl-key" => self.key = Some(path()?),
            "server-public-key-path" => self.server_public_key = Some(path()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whoever writes them decides which server is believed. The driver opens them by their paths, and says so where one is not there.
    fn check_tls_files(&self) -> Result<()> {
        for file in [&self.ca, &self.cert, &self.key].into_iter().flatten() {
            sys::trust::require(file)?;
            match sys::fs::open_plain_linked(file) {
                Err(error) if !error.is(std::io::ErrorKind::NotFound) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    fn tls(&self, target: &Target) -> Tls {
        let mode = match (self.mode, self.verify) {
            (Some(TlsMode::Disabled), _) => TlsMode::Disabled,
            (_, Some(true)) => TlsMode::VerifyIdentity,
            (Some(mode), _) => mode,
            (None, None) if self.ca.is_some() => TlsMode::VerifyCa,
            (None, _) if is_loopback(target) => TlsMode::Preferred,
            (None, _) => TlsMode::Required,
        };
        Tls {
            mode,
            ca: self.ca.clone(),
            identity: self.cert.clone().zip(self.key.clone()),
            server_public_key: self.server_public_key.clone(),
        }
    }
}

fn is_loopback(target: &Target) -> bool {
    match target {
        Target::Socket(_) => true,
        Target::Tcp(host, _) => {
            host == "localhost"
                || host
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }
    }
}

fn number<T: std::str::FromStr>(entry: &Entry, text: &str) -> Result<T> {
    text.parse()
        .map_err(|_| entry.wrong(format!("`{}` needs a number, not `{text}`", entry.key)))
}

fn truth(entry: &Entry) -> Result<bool> {
    match entry.value.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("1" | "on" | "true") => Ok(true),
        Some("0" | "off" | "false") => Ok(false),
        Some(other) => Err(entry.wrong(format!("`{}` is on or off, not `{other}`", entry.key))),
    }
}

fn protocol(entry: &Entry, text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(true),
        "socket" => Ok(false),
        other => Err(entry.wrong(format!("protocol `{other}` is not supported: `tcp` or `socket`"))),
    }
}

fn tls_mode(entry: &Entry, text: &str) -> Result<TlsMode> {
    match text.to_ascii_uppercase().replace('-', "_").as_str() {
        "DISABLED" => Ok(TlsMode::Disabled),
        "PREFERRED" => Ok(TlsMode::Preferred),
        "REQUIRED" => Ok(TlsMode::Required),
        "VERIFY_CA" => Ok(TlsMode::VerifyCa),
        "VERIFY_IDENTITY" => Ok(TlsMode::VerifyIdentity),
        _ => Err(entry.wrong(format!(
            "ssl-mode `{text}` is none of DISABLED, PREFERRED, REQUIRED, VERIFY_CA, VERIFY_IDENTITY"
        ))),
    }
}

/// An error about a target, with what the driver said.
pub(super) fn unreachable(options: &ConnectOptions, code: u16, reason: impl fmt::Display) -> Error {
    Error::Connect {
        address: format!("{} as `{}`", options.target, options.user),
        code,
        reason: format!("{reason}{}", advice(options, code)),
    }
}

/// What a person can do about the server's answer, where its words do not say.
fn advice(options: &ConnectOptions, code: u16) -> &'static str {
    match (code, &options.target) {
        (TOO_MANY_CONNECTIONS, _) => {
            "; it was left alone: try again when it has fewer clients, or raise its `max_connections`"
        }
        (TOO_MANY_OF_USER | QUOTA, _) => {
            "; it was left alone: try again later, or raise the account's limit (ALTER USER ... WITH MAX_USER_CONNECTIONS 0)"
        }
        (ACCESS_DENIED, _) if options.password.is_none() && options.user == "root" && !sys::host::is_root() => {
            "; no password was given: run snapback as root, whom servers let in as `root` over their socket, or name another account"
        }
        (ACCESS_DENIED, _) if options.password.is_none() => {
            "; no password was given: put it into an option file (`server.defaults_file`), or name an account that needs none (`server.user`)"
        }
        (ACCESS_DENIED, Target::Socket(_)) if options.tls.mode < TlsMode::Required => {
            "; if the password is right: an account with REQUIRE SSL is let in over the socket with `ssl-mode=REQUIRED` in the option file (REQUIRE X509: with \
             `ssl-cert` and `ssl-key` as well)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn options(file: Option<&str>, server: Server, environment: &[(&str, &str)]) -> Result<ConnectOptions> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.cnf");
        if let Some(text) = file {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let server = Server {
            defaults_file: file.map(|_| path),
            ..server
        };
        ConnectOptions::with_environment(&server, |name| {
            environment
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn without_any_setting_it_is_root_over_the_socket() {
        let options = options(None, Server::default(), &[]).unwrap();
        assert_eq!(options.user, "root");
        assert_eq!(options.password, None);
        assert!(matches!(options.target, Target::Socket(_)), "{:?}", options.target);
    }

    #[test]
    fn our_own_group_wins_and_the_configuration_wins_over_it() {
        let file = "[snapback]\nuser=ours\npassword=two\n[client]\nuser=theirs\npassword=one\nsocket=/a.sock\n";
        let found = options(Some(file), Server::default(), &[("MYSQL_PWD", "three")]).unwrap();
        assert_eq!(found.user, "ours");
        assert_eq!(found.password, Some(Secret::new("two")));
        assert_eq!(found.target, Target::Socket("/a.sock".into()));

        let server = Server {
            host: Some("db.example".into()),
            user: Some("third".into()),
            ..Server::default()
        };
        let found = options(Some(file), server, &[("SNAPBACK_MYSQL_PASSWORD", "four")]).unwrap();
        assert_eq!(found.user, "third");
        assert_eq!(found.password, Some(Secret::new("four")));
        assert_eq!(found.target, Target::Tcp("db.example".into(), 3306));
        assert_eq!(found.tls.mode, TlsMode::Required);
    }

    #[test]
    fn localhost_means_the_socket_unless_tcp_is_asked_for() {
        let target = |file: &str| options(Some(file), Server::default(), &[]).unwrap().target;
        assert_eq!(
            target("[client]\nhost=localhost\nport=3307\nsocket=/s\n"),
            Target::Socket("/s".into())
        );
        assert_eq!(
            target("[client]\nhost=localhost\nport=3307\nprotocol=TCP\n"),
            Target::Tcp("localhost".into(), 3307)
        );
        assert_eq!(
            target("[client]\nhost=127.0.0.1\nsocket=/s\n"),
            Target::Tcp("127.0.0.1".into(), 3306)
        );
    }

    #[test]
    fn tls_asks_for_as_much_as_was_set() {
        let mode = |text: &str| {
            let file = format!("[client]\nhost=127.0.0.1\n{text}\n");
            options(Some(&file), Server::default(), &[]).unwrap().tls.mode
        };
        assert_eq!(mode(""), TlsMode::Preferred);
        assert_eq!(mode("ssl"), TlsMode::Required);
        assert_eq!(mode("skip-ssl"), TlsMode::Disabled);
        assert_eq!(mode("ssl-ca=/ca.pem"), TlsMode::VerifyCa);
        assert_eq!(mode("ssl-ca=/ca.pem\nssl-verify-server-cert"), TlsMode::VerifyIdentity);
        assert_eq!(mode("ssl_mode=verify_identity"), TlsMode::VerifyIdentity);
        assert_eq!(mode("ssl-verify-server-cert=0"), TlsMode::Preferred);
    }

    #[test]
    fn a_certificate_that_others_could_exchange_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        fs::write(&ca, "x").unwrap();
        fs::set_permissions(&ca, fs::Permissions::from_mode(0o666)).unwrap();
        let with = |more: &str| {
            options(
                Some(&format!("[client]\nssl-ca={}\n{more}", ca.display())),
                Server::default(),
                &[],
            )
        };
        with("").unwrap();
        if sys::host::is_root() {
            let error = with("host=127.0.0.1\n").unwrap_err().to_string();
            assert!(error.contains("chmod go-w"), "{error}");
        }
        fs::remove_file(&ca).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &ca,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let error = with("host=127.0.0.1\n").unwrap_err().to_string();
        assert!(error.contains("named pipe"), "{error}");
    }

    #[test]
    fn an_answer_that_says_little_gets_words_of_ours() {
        use crate::error::Kind;
        let at = |target: Target, code: u16| {
            let options = ConnectOptions {
                target,
                ..options(None, Server::default(), &[]).unwrap()
            };
            unreachable(&options, code, "no")
        };
        let (socket, tcp) = (Target::Socket("/s".into()), Target::Tcp("h".into(), 1));
        let with = |target: &Target, mode: TlsMode| {
            let mut options = options(None, Server::default(), &[("MYSQL_PWD", "p")]).unwrap();
            (options.target, options.tls.mode) = (target.clone(), mode);
            unreachable(&options, 1045, "no").to_string()
        };
        let said = with(&socket, TlsMode::Preferred);
        assert!(
            said.contains("REQUIRE SSL") && said.contains("ssl-mode=REQUIRED"),
            "{said}"
        );
        assert!(
            !with(&socket, TlsMode::Required).contains("REQUIRE SSL"),
            "it spoke TLS"
        );
        assert!(!with(&tcp, TlsMode::Preferred).contains("REQUIRE SSL"));
        let without = at(socket.clone(), 1045).to_string();
        assert!(
            without.contains("no password was given") && !without.contains("is right"),
            "{without}"
        );
        for (code, word) in [
            (1040, "max_connections"),
            (1203, "MAX_USER_CONNECTIONS"),
            (1226, "limit"),
        ] {
            let error = at(socket.clone(), code);
            assert!(
                error.kind() == Kind::Busy && error.to_string().contains(word),
                "{error}"
            );
        }
        assert_eq!(at(socket, 1045).kind(), Kind::Failed);
    }

    #[test]
    fn a_typing_error_in_our_group_is_an_error_and_elsewhere_it_is_none() {
        let error = options(Some("[snapback]\nuzer=x\n"), Server::default(), &[]).unwrap_err();
        assert!(error.to_string().contains("line 2: unknown option `uzer`"), "{error}");
        assert_eq!(error.kind(), crate::error::Kind::Usage);
        options(Some("[client]\nsafe-updates\n"), Server::default(), &[]).unwrap();
        let error = options(Some("[client]\nport=x\n"), Server::default(), &[]).unwrap_err();
        assert!(error.to_string().contains("needs a number"), "{error}");
    }

    #[test]
    fn the_way_to_a_server_is_written_as_it_is_read() {
        for file in [
            "[client]\nsocket=/run/a b#c.sock\n",
            "[client]\nhost=localhost\nprotocol=tcp\nport=3307\n",
            "[client]\nhost=db.example\nssl-mode=VERIFY_CA\nserver-public-key-path=/k.pem\n",
        ] {
            let first = options(Some(file), Server::default(), &[]).unwrap();
            let written = format!("[snapback]\n{}", first.option_lines());
            let again = options(Some(&written), Server::default(), &[]).unwrap();
            assert_eq!((&again.target, &again.tls), (&first.target, &first.tls), "{written}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let options = options(Some("[client]\npassword=hush\n"), Server::default(), &[]).unwrap();
        assert!(!format!("{options:?}").contains("hush"));
    }
}
