//! POSIX ACLs: from the kernel's attribute to the text that tar keeps.

/// Names of the attributes, and of the pax records for them.
pub(super) const ACLS: [(&[u8], &[u8]); 2] = [
    (b"system.posix_acl_access", b"SCHILY.acl.access"),
    (b"system.posix_acl_default", b"SCHILY.acl.default"),
];

/// `user::rwx,user:1000:r-x,group::r-x,mask::r-x,other::r--`; `None` when the attribute is not an ACL of version 2.
pub(super) fn text(attribute: &[u8]) -> Option<String> {
    let (version, entries) = attribute.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != 2 || !rest.is_empty() {
        return None;
    }
    let words = entries.iter().map(|entry| {
        let half = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let (word, named) = match half(0) {
            0x01 => ("user", false),
            0x02 => ("user", true),
            0x04 => ("group", false),
            0x08 => ("group", true),
            0x10 => ("mask", false),
            0x20 => ("other", false),
            _ => return None,
        };
        let bit = |bit: u16, letter: char| if half(2) & bit != 0 { letter } else { '-' };
        let id = if named { id.to_string() } else { String::new() };
        Some(format!("{word}:{id}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x')))
    });
    Some(words.collect::<Option<Vec<String>>>()?.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_reads_as_getfacl_says_it() {
        let entry = |tag: u16, bits: u16, id: u32| {
            [tag.to_le_bytes().as_slice(), &bits.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let attribute = [
            vec![2, 0, 0, 0],
            entry(1, 6, u32::MAX),
            entry(2, 5, 1000),
            entry(4, 4, u32::MAX),
            entry(16, 5, u32::MAX),
            entry(32, 0, u32::MAX),
        ]
        .concat();
        let expected = "user::rw-,user:1000:r-x,group::r--,mask::r-x,other::---";
        assert_eq!(text(&attribute).as_deref(), Some(expected));
        assert_eq!(text(&attribute[..attribute.len() - 1]), None);
        assert_eq!(text(&[1, 0, 0, 0]), None);
        assert_eq!(text(&[]), None);
    }
}
