//! What a terminal or a log may get of a text: no control characters, no line that we did not begin.
//!
//! Names, tags, servers' messages and manifests are written by others. Whatever is printed for people passes here, as the last step, so nobody has to think of
//! it. What we put into a text ourselves (colours, line breaks) is written as marks until then: characters for private use, drawn by lot for each process, so
//! that no name can hold them.

use std::fmt::Write;
use std::sync::OnceLock;

/// Something of our own in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Mark {
    Reset,
    Bold,
    Dim,
    Red,
    Yellow,
    Green,
    /// The next line of the same text.
    Break,
}

const MARKS: [(Mark, &str); 7] = [
    (Mark::Reset, "\x1b[0m"),
    (Mark::Bold, "\x1b[1m"),
    (Mark::Dim, "\x1b[2m"),
    (Mark::Red, "\x1b[1;31m"),
    (Mark::Yellow, "\x1b[1;33m"),
    (Mark::Green, "\x1b[32m"),
    (Mark::Break, "\n"),
];

/// The first of plane 16, which Unicode leaves to private use.
const PRIVATE: u32 = 0x10_0000;

fn first() -> u32 {
    static FIRST: OnceLock<u32> = OnceLock::new();
    *FIRST.get_or_init(|| PRIVATE + getrandom::u32().unwrap_or_default() % 0xff00)
}

impl Mark {
    /// As it stands in a text until that is printed.
    pub fn char(self) -> char {
        let at = MARKS.iter().position(|(mark, _)| *mark == self).unwrap_or_default();
        u32::try_from(at)
            .ok()
            .and_then(|at| char::from_u32(first() + at))
            .unwrap_or(' ')
    }

    fn shown(c: char) -> Option<&'static str> {
        let at = u32::from(c).checked_sub(first())?;
        MARKS.get(usize::try_from(at).ok()?).map(|(_, text)| *text)
    }
}

/// What becomes of a line break that is no mark of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Breaks {
    /// Shown as `\n`: one line stays one line.
    Escaped,
    /// A line break, and a bar before what follows: no line of ours looks so. For what programs and servers say.
    Barred,
    /// As `Barred`, but a line that is indented is our own (commands to copy): what others wrote is quoted in it already, on one line.
    Indented,
    /// A line break: the text is our own (SQL).
    Kept,
}

/// The text for a terminal or a log.
pub(in crate::cli) fn shown(text: &str, breaks: Breaks) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let ours = breaks == Breaks::Kept || breaks == Breaks::Indented && rest.peek() == Some(&' ');
        match (c, breaks) {
            (' '..='~', _) => out.push(c),
            ('\n', _) if ours => out.push(c),
            ('\n', Breaks::Barred | Breaks::Indented) => out.push_str("\n    | "),
            ('\t', Breaks::Barred | Breaks::Kept) => out.push(c),
            _ => match Mark::shown(c) {
                Some(mark) => out.push_str(mark),
                None if is_hostile(c) => push_escaped(&mut out, c),
                None => out.push(c),
            },
        }
    }
    out
}

/// JSON that a terminal may show: serde leaves alone what is above ASCII's first 32. Outside of strings there is none of it.
pub(in crate::cli) fn json(text: String) -> String {
    if !text.chars().any(|c| c != '\n' && is_hostile(c)) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c == '\n' || !is_hostile(c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

/// Whether a text has anything that must not be printed as it is, a line break included.
pub(in crate::cli) fn is_plain(text: &str) -> bool {
    !text.chars().any(is_hostile)
}

/// Control characters (C0, DEL, C1), other line breaks, and what turns the direction of writing or is not seen at all.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn push_escaped(out: &mut String, c: char) {
    let _ = match c {
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        c if c.is_ascii() => write!(out, "\\x{:02x}", u32::from(c)),
        c => write!(out, "\\u{{{:x}}}", u32::from(c)),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_neither_moves_the_cursor_nor_begins_a_line() {
        let bad = "x\x1b]0;owned\x07\x1b[2Jy\nerror: all is well\r\t\x7f\u{9b}31m\u{202e}\u{2028}\u{e0041}";
        let said = shown(bad, Breaks::Escaped);
        assert_eq!(
            said,
            "x\\x1b]0;owned\\x07\\x1b[2Jy\\nerror: all is well\\r\\t\\x7f\\u{9b}31m\\u{202e}\\u{2028}\\u{e0041}"
        );
        let said = shown("a\nerror: b\tc\x1b", Breaks::Barred);
        assert_eq!(said, "a\n    | error: b\tc\\x1b");
        assert_eq!(
            shown("run:\n  a \\\n    b\nerror: c", Breaks::Indented),
            "run:\n  a \\\n    b\n    | error: c"
        );
        assert_eq!(shown("GRANT x;\n\x1b", Breaks::Kept), "GRANT x;\n\\x1b");
        assert_eq!(shown("Käse 数 🦀 \\n", Breaks::Escaped), "Käse 数 🦀 \\n");
    }

    #[test]
    fn marks_are_ours_alone() {
        let text = format!("{}a{}b", Mark::Red.char(), Mark::Reset.char());
        assert_eq!(shown(&text, Breaks::Escaped), "\x1b[1;31ma\x1b[0mb");
        let text = format!("a{}b\nc", Mark::Break.char());
        assert_eq!(shown(&text, Breaks::Escaped), "a\nb\\nc");
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({"name": "a\u{9b}b\x7f\n\u{202e}\u{e0041}é\x1b"});
        let text = json(serde_json::to_string_pretty(&value).unwrap());
        assert!(is_plain(&text.replace('\n', "")), "{text:?}");
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back, value);
    }
}
