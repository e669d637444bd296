//! The few tokens of PDF syntax, outside streams.

use std::ops::Range;

use super::Malformed;

/// One token; where it stands comes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    DictOpen,
    DictClose,
    ArrayOpen,
    ArrayClose,
    Name,
    /// `(literal)`.
    Literal,
    /// `<hex>`.
    Hex,
    /// A number or a keyword.
    Word,
}

/// A token and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) range: Range<usize>,
}

/// Reads tokens from `at` on.
#[derive(Debug, Clone)]
pub(super) struct Lexer<'a> {
    data: &'a [u8],
    at: usize,
}

fn is_space(byte: u8) -> bool {
    matches!(byte, 0 | b'\t' | b'\n' | 0x0c | b'\r' | b' ')
}

fn is_delimiter(byte: u8) -> bool {
    matches!(byte, b'(' | b')' | b'<' | b'>' | b'[' | b']' | b'{' | b'}' | b'/' | b'%')
}

impl<'a> Lexer<'a> {
    pub(super) fn new(data: &'a [u8], at: usize) -> Self {
        Self { data, at }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.data.get(self.at.checked_add(ahead)?).copied()
    }

    fn skip_blank(&mut self) {
        while let Some(byte) = self.peek(0) {
            if byte == b'%' {
                while self.peek(0).is_some_and(|byte| byte != b'\n' && byte != b'\r') {
                    self.at += 1;
                }
            } else if is_space(byte) {
                self.at += 1;
            } else {
                return;
            }
        }
    }

    /// The next token.
    ///
    /// # Errors
    /// At the end of the data, or at a byte that begins no token.
    pub(super) fn token(&mut self) -> Result<Token, Malformed> {
        self.skip_blank();
        let start = self.at;
        let first = self.peek(0).ok_or(Malformed("it ends within an object"))?;
        let (kind, length) = match (first, self.peek(1)) {
            (b'<', Some(b'<')) => (Kind::DictOpen, 2),
            (b'>', Some(b'>')) => (Kind::DictClose, 2),
            (b'[', _) => (Kind::ArrayOpen, 1),
            (b']', _) => (Kind::ArrayClose, 1),
            (b'<', _) => (Kind::Hex, self.hex()?),
            (b'(', _) => (Kind::Literal, self.literal()?),
            (b'/', _) => (Kind::Name, 1 + self.regular(1)),
            (byte, _) if is_delimiter(byte) => return Err(Malformed("a stray delimiter")),
            _ => (Kind::Word, self.regular(0)),
        };
        self.at = start + length;
        Ok(Token { kind, range: start..self.at })
    }

    /// How many regular characters follow.
    fn regular(&self, from: usize) -> usize {
        let rest = self.data.get(self.at + from..).unwrap_or_default();
        rest.iter().take_while(|byte| !is_space(**byte) && !is_delimiter(**byte)).count()
    }

    fn hex(&self) -> Result<usize, Malformed> {
        let rest = self.data.get(self.at..).unwrap_or_default();
        rest.iter()
            .position(|byte| *byte == b'>')
            .map(|at| at + 1)
            .ok_or(Malformed("an open hexadecimal string"))
    }

    fn literal(&self) -> Result<usize, Malformed> {
        let mut depth = 0_usize;
        let mut escaped = false;
        let rest = self.data.get(self.at..).unwrap_or_default();
        for (at, byte) in rest.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'(' => depth += 1,
                b')' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return Ok(at + 1);
                    }
                }
                _ => {}
            }
        }
        Err(Malformed("an open string"))
    }

    /// The text of a token.
    pub(super) fn text(&self, token: &Token) -> &'a [u8] {
        self.data.get(token.range.clone()).unwrap_or_default()
    }

    /// The next token as an unsigned number.
    pub(super) fn unsigned(&mut self) -> Result<usize, Malformed> {
        let token = self.token()?;
        parse(self.text(&token)).ok_or(Malformed("something else where a number was expected"))
    }

    /// The next token, which must be the word `word`.
    pub(super) fn word(&mut self, word: &'static [u8]) -> Result<(), Malformed> {
        let token = self.token()?;
        let same = token.kind == Kind::Word && self.text(&token) == word;
        if same { Ok(()) } else { Err(Malformed("a missing keyword")) }
    }

    /// The next value, whole: a token, a reference, an array or a dictionary.
    pub(super) fn value(&mut self) -> Result<Range<usize>, Malformed> {
        let first = self.token()?;
        let start = first.range.start;
        match first.kind {
            Kind::DictOpen | Kind::ArrayOpen => {
                let mut depth = 1_usize;
                while depth > 0 {
                    match self.token()?.kind {
                        Kind::DictOpen | Kind::ArrayOpen => depth += 1,
                        Kind::DictClose | Kind::ArrayClose => depth -= 1,
                        _ => {}
                    }
                }
            }
            Kind::DictClose | Kind::ArrayClose => return Err(Malformed("a stray bracket")),
            Kind::Word if parse::<usize>(self.text(&first)).is_some() => {
                // A reference is three tokens: 12 0 R.
                let mut ahead = self.clone();
                if ahead.unsigned().is_ok() && ahead.word(b"R").is_ok() {
                    *self = ahead;
                }
            }
            _ => {}
        }
        Ok(start..self.at)
    }

    /// Where the lexer stands.
    pub(super) fn position(&self) -> usize {
        self.at
    }
}

/// A number written in ASCII.
pub(super) fn parse<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}
