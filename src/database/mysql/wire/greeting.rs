//! The first packet of a server, and our answer to it.

use super::Fault;
use super::packet::Cursor;

/// What client and server can do (`CLIENT_*`), as far as we care.
pub mod can {
    pub const LONG_PASSWORD: u32 = 1;
    pub const PROTOCOL_41: u32 = 1 << 9;
    pub const SSL: u32 = 1 << 11;
    pub const TRANSACTIONS: u32 = 1 << 13;
    pub const SECURE_CONNECTION: u32 = 1 << 15;
    pub const MULTI_STATEMENTS: u32 = 1 << 16;
    pub const MULTI_RESULTS: u32 = 1 << 17;
    pub const PLUGIN_AUTH: u32 = 1 << 19;
    /// What we want; files of this host (`LOCAL_FILES`) and progress reports are not among it.
    pub const WANTED: u32 =
        LONG_PASSWORD | PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION | MULTI_STATEMENTS | MULTI_RESULTS | PLUGIN_AUTH;
}

/// `utf8mb4_general_ci`.
const CHARACTERS: u8 = 45;
const LARGEST_PACKET: u32 = 64 << 20;

/// What a server says of itself.
#[derive(Debug)]
pub struct Greeting {
    pub can: u32,
    /// What passwords are mixed with: 20 bytes.
    pub nonce: Vec<u8>,
    pub plugin: String,
}

impl Greeting {
    /// Reads it.
    ///
    /// # Errors
    /// It is none, or one of a server before 4.1.
    pub fn read(packet: &[u8]) -> Result<Greeting, Fault> {
        let greeting = Greeting::parse(packet)
            .ok_or_else(|| Fault::nonsense("it does not greet as a MySQL or MariaDB server does"))?;
        match greeting.can & can::PROTOCOL_41 {
            0 => Err(Fault::nonsense("it speaks the protocol of servers before 4.1")),
            _ => Ok(greeting),
        }
    }

    fn parse(packet: &[u8]) -> Option<Greeting> {
        let mut cursor = Cursor(packet);
        if cursor.u8()? != 10 {
            return None;
        }
        cursor.until_zero();
        cursor.bytes(4)?;
        let mut nonce = cursor.bytes(8)?.to_vec();
        cursor.bytes(1)?;
        let low = cursor.u16()?;
        // Character set and status.
        cursor.bytes(3)?;
        let high = cursor.u16()?;
        // The nonce's length, which is 21 with its zero everywhere, and what is reserved.
        cursor.bytes(11)?;
        nonce.extend(cursor.until_zero());
        nonce.resize(20, 0);
        Some(Greeting {
            can: u32::from(low) | u32::from(high) << 16,
            nonce,
            plugin: String::from_utf8_lossy(cursor.until_zero()).into_owned(),
        })
    }
}

/// The head of our answer, which alone is also the wish for TLS.
pub fn head(can: u32) -> Vec<u8> {
    let mut bytes = can.to_le_bytes().to_vec();
    bytes.extend(LARGEST_PACKET.to_le_bytes());
    bytes.push(CHARACTERS);
    bytes.extend([0; 23]);
    bytes
}

/// Our answer: who we are, and the first word of the exchange about the password.
pub fn response(can: u32, user: &str, proof: &[u8], plugin: &str) -> Vec<u8> {
    let mut bytes = head(can);
    bytes.extend(user.bytes().filter(|byte| *byte != 0));
    bytes.push(0);
    // No exchange begins with more than 255 bytes.
    bytes.push(proof.len() as u8);
    bytes.extend(proof);
    bytes.extend(plugin.as_bytes());
    bytes.push(0);
    bytes
}
