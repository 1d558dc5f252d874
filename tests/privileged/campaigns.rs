//! Campaigns: random moments, many rounds. A few rounds in CI; `scripts/test --thorough` asks for hundreds (`SNAPBACK_THOROUGH`).

mod changes;
mod histories;
mod input_output;
mod kills;
mod loops;

/// xorshift64*: repeatable; the seed is printed, so that a round that failed can be made again (`SNAPBACK_SEED`).
pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = std::env::var("SNAPBACK_SEED").map_or_else(
            |_| clock.unwrap().as_nanos() as u64 | 1,
            |seed| seed.parse().expect("a number"),
        );
        eprintln!("SNAPBACK_SEED={seed}");
        Random(seed)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound.max(1)
    }
}
