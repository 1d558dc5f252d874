//! Keys: relative paths of plain components, so that no store needs to think about `..` or odd characters.

use super::{Error, Result};

/// # Errors
/// The key is not one that a store may hold.
pub(super) fn check(key: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let component =
        |part: &str| !part.is_empty() && !part.starts_with('.') && part.len() <= 255 && part.chars().all(plain);
    if key.len() <= 1024 && key.split('/').all(component) {
        return Ok(());
    }
    Err(Error::BadKey(key.chars().take(100).collect()))
}

/// The same for a prefix, which ends with a slash.
pub(super) fn check_prefix(prefix: &str) -> Result<()> {
    check(prefix.strip_suffix('/').unwrap_or(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_keys_pass() {
        for bad in ["", "/", "/a", "a/", "a//b", "..", "a/../b", ".a", "a b", "ä", "a\0"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        check("packs/00/0011-a_B.c").unwrap();
        check_prefix("packs/").unwrap();
        assert!(check_prefix("packs").is_err());
    }
}
