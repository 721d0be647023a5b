//! What clients say, in lines of the log and on a terminal.

use std::fmt::{self, Display, Formatter, Write};

/// A client's text for a line: what would end the line, or speak to the terminal that shows it, is
/// escaped.
#[derive(Debug, Clone, Copy)]
pub struct Printable<T>(pub T);

impl<T: Display> Display for Printable<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(is_unprintable) {
            match piece.chars().next_back().filter(|last| is_unprintable(*last)) {
                Some(last) => {
                    self.0.write_str(&piece[..piece.len() - last.len_utf8()])?;
                    write!(self.0, "{}", last.escape_default())?;
                }
                None => self.0.write_str(piece)?,
            }
        }
        Ok(())
    }
}

/// Control characters, the separators of lines and paragraphs, and what turns the direction of the
/// text behind it.
fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_line_or_speaks_to_the_terminal_is_escaped() {
        let cases = [
            ("", ""),
            ("orders.größe \\ \"1\" 木", "orders.größe \\ \"1\" 木"),
            ("evil\nERROR forged", "evil\\nERROR forged"),
            ("\r\n\t", "\\r\\n\\t"),
            ("\x1b[31mred\0\x07\x7f", "\\u{1b}[31mred\\u{0}\\u{7}\\u{7f}"),
            ("\u{85}a\u{9b}31m", "\\u{85}a\\u{9b}31m"),
            ("a\u{2028}b\u{2029}", "a\\u{2028}b\\u{2029}"),
            ("\u{202e}gpj\u{2066}", "\\u{202e}gpj\\u{2066}"),
        ];
        for (text, expected) in cases {
            assert_eq!(Printable(text).to_string(), expected);
        }
    }
}
