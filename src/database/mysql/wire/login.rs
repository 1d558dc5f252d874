//! Being let in, without giving the password to anybody but the server.
//!
//! Three exchanges do not reveal a password: `mysql_native_password`, the short way of `caching_sha2_password`,
//! `client_ed25519`. The long way of `caching_sha2_password` does: it is gone only over TLS whose certificate was
//! verified, over TLS or a socket to a process that is proved ([`peer`]), or encrypted for a key that is configured.

use mysql_common::{crypto, scramble};

use super::greeting::{Greeting, can, head, response};
use super::packet::Cursor;
use super::{Channel, Fault, LONGEST_PACKET, Wire, peer, tls};
use crate::database::mysql::connect::{ConnectOptions, Target, TlsMode};
use crate::sys::fs::{TEXT_LIMIT, read_plain_linked};
use crate::sys::host;

const NATIVE: &str = "mysql_native_password";
const SHA2: &str = "caching_sha2_password";
const ED25519: &str = "client_ed25519";
/// No exchange has more turns.
const MOST_TURNS: usize = 8;

/// The exchange that is going on.
struct Exchange<'o> {
    options: &'o ConnectOptions,
    plugin: String,
    nonce: Vec<u8>,
}

/// Reads the greeting, changes to TLS where that is wanted, and proves who we are.
///
/// # Errors
/// The server says no, or wants what it must not get.
pub fn log_in(wire: &mut Wire, options: &ConnectOptions) -> Result<(), Fault> {
    let greeting = Greeting::read(&wire.receive_good(LONGEST_PACKET)?)?;
    let mut flags = can::WANTED & (greeting.can | can::LONG_PASSWORD);
    if wants_tls(options, greeting.can & can::SSL != 0)? {
        flags |= can::SSL;
        begin_tls(wire, options, flags)?;
    }
    let mut exchange = Exchange {
        options,
        plugin: match greeting.plugin.as_str() {
            SHA2 | ED25519 => greeting.plugin,
            _ => NATIVE.to_owned(),
        },
        nonce: greeting.nonce,
    };
    let proof = exchange.proof()?;
    wire.send(&response(flags, &options.user, &proof, &exchange.plugin))?;
    for _ in 0..MOST_TURNS {
        let packet = wire.receive_good(LONGEST_PACKET)?;
        match packet[0] {
            0x00 => return Ok(()),
            0xfe => exchange.change(wire, &packet)?,
            0x01 if exchange.plugin == SHA2 => match packet.get(1) {
                Some(3) => {}
                Some(4) => exchange.reveal(wire)?,
                _ => return Err(Fault::nonsense(format!("{SHA2} has no such turn"))),
            },
            _ => return Err(Fault::nonsense(format!("{} has no such turn", exchange.plugin))),
        }
    }
    Err(Fault::nonsense("it does not come to an end about the password"))
}

/// A socket needs no TLS, but an account may be required to use it (`REQUIRE SSL`).
fn wants_tls(options: &ConnectOptions, offered: bool) -> Result<bool, Fault> {
    match (&options.target, options.tls.mode) {
        (_, TlsMode::Disabled) => Ok(false),
        (Target::Socket(_), mode) => Ok(offered && mode >= TlsMode::Required),
        (Target::Tcp(..), TlsMode::Preferred) => Ok(offered),
        (Target::Tcp(..), _) if offered => Ok(true),
        (Target::Tcp(..), mode) => Err(Fault::Unproved(format!(
            "the server offers no TLS, and {mode:?} asks for it (ssl-mode)"
        ))),
    }
}

fn begin_tls(wire: &mut Wire, options: &ConnectOptions, flags: u32) -> Result<(), Fault> {
    wire.send(&head(flags))?;
    if wire.has_more() {
        // Whoever sits in between put it there: the server says nothing now.
        return Err(Fault::nonsense("it went on talking in clear where TLS begins"));
    }
    match std::mem::replace(&mut wire.channel, Channel::Closed) {
        Channel::Plain(line) => wire.channel = Channel::Tls(Box::new(tls::begin(line, options)?)),
        other => wire.channel = other,
    }
    Ok(())
}

impl Exchange<'_> {
    fn password(&self) -> &str {
        self.options.password.as_ref().map_or("", |password| password.expose())
    }

    /// What proves to the server that we know the password, and tells nobody what it is.
    fn proof(&self) -> Result<Vec<u8>, Fault> {
        let password = self.password().as_bytes();
        if password.is_empty() {
            return Ok(Vec::new());
        }
        let proof = match self.plugin.as_str() {
            NATIVE => scramble::scramble_native(&self.nonce, password).map(Vec::from),
            SHA2 => scramble::scramble_sha256(&self.nonce, password).map(Vec::from),
            ED25519 => Some(scramble::create_response_for_ed25519(password, &self.nonce).to_vec()),
            _ => None,
        };
        proof.ok_or_else(|| Fault::nonsense(format!("it asks for {}", self.plugin)))
    }

    /// The server wants another exchange.
    fn change(&mut self, wire: &mut Wire, packet: &[u8]) -> Result<(), Fault> {
        let mut cursor = Cursor(&packet[1..]);
        let plugin = String::from_utf8_lossy(cursor.until_zero()).into_owned();
        match plugin.as_str() {
            NATIVE | SHA2 | ED25519 => {}
            other => return Err(unsupported(other)),
        }
        self.plugin = plugin;
        let length = if self.plugin == ED25519 { 32 } else { 20 };
        self.nonce = cursor.0.to_vec();
        self.nonce.resize(length, 0);
        let proof = self.proof()?;
        wire.send(&proof)
    }

    /// The server does not remember the account and wants the password itself.
    fn reveal(&self, wire: &mut Wire) -> Result<(), Fault> {
        let clear = || {
            let mut bytes = self.password().as_bytes().to_vec();
            bytes.push(0);
            bytes
        };
        if self.password().is_empty() {
            return wire.send(&clear());
        }
        let tls = matches!(wire.channel, Channel::Tls(_));
        let socket = matches!(self.options.target, Target::Socket(_));
        if !tls && !socket {
            // The server would give its key, and so would anybody.
            let Some(path) = self.options.tls.server_public_key.as_deref() else {
                return Err(unproved("there is no TLS on this connection", self.options));
            };
            let key = read_plain_linked(path, TEXT_LIMIT).map_err(|error| Fault::Unproved(error.to_string()))?;
            let wrong = || {
                Fault::Unproved(format!(
                    "{} is no RSA public key (PEM), or too short for the password: name the server's own (server-public-key-path)",
                    path.display()
                ))
            };
            return wire.send(&self.encrypted(&key).ok_or_else(wrong)?);
        }
        prove(wire, self.options).map_err(|why| unproved(&why, self.options))?;
        wire.send(&clear())
    }

    /// `None`: the key is none, or too short.
    fn encrypted(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = self.password().as_bytes().to_vec();
        bytes.push(0);
        for (byte, mixed) in bytes.iter_mut().zip(self.nonce.iter().cycle()) {
            *byte ^= mixed;
        }
        let text = String::from_utf8_lossy(key);
        if !text.contains("-----BEGIN PUBLIC KEY-----") {
            return None;
        }
        // The crate panics at a key that it cannot read.
        host::without_panic(|| crypto::encrypt(&bytes, key))
    }
}

/// Whether what is said over this connection reaches only the server that is meant: over TLS to another host, whose certificate was
/// verified; else the process at the other end is looked at.
///
/// # Errors
/// It may not; in words.
pub fn prove(wire: &Wire, options: &ConnectOptions) -> Result<(), String> {
    let tls = matches!(wire.channel, Channel::Tls(_));
    let tcp = matches!(options.target, Target::Tcp(..));
    if tls && tcp && options.tls.mode >= TlsMode::VerifyCa {
        return Ok(());
    }
    let line = wire.channel.line().map_err(|error| error.to_string())?;
    peer::prove(&options.target, line)
}

fn unsupported(plugin: &str) -> Fault {
    let name: String = plugin.chars().take(40).collect();
    let why = match plugin {
        "mysql_clear_password" | "dialog" => "which sends the password as it is",
        "" | "mysql_old_password" => "which gives the password away (servers before 4.1)",
        _ => "which snapback does not speak",
    };
    Fault::Unproved(format!(
        "the server asks for the exchange `{name}`, {why}; give the account {NATIVE}, {SHA2} or ed25519"
    ))
}

fn unproved(why: &str, options: &ConnectOptions) -> Fault {
    let key = match options.target {
        Target::Tcp(..) if options.tls.mode <= TlsMode::Preferred => ", or name its key (server-public-key-path)",
        _ => "",
    };
    Fault::Unproved(format!(
        "the server asks for the password itself ({SHA2}), and nothing proves that it is the right server: {why}; the password was \
         not sent. Connect over its socket, or with ssl-ca (ssl-mode=VERIFY_CA){key}"
    ))
}
