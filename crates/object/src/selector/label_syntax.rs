//! Reads the text form of label selectors, with upstream's grammar and error messages.

use super::labels::{Error, Operator, Requirement};
use crate::Str;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    End,
    Open,
    Close,
    Comma,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
    Word(&'a str),
    /// A run of operator characters that is none.
    Error(&'a str),
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::End => "",
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::Not => "!",
            Token::Equals => "=",
            Token::DoubleEquals => "==",
            Token::NotEquals => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::In => "in",
            Token::NotIn => "notin",
            Token::Word(text) | Token::Error(text) => text,
        }
    }
}

/// Reads tokens one ahead.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

fn is_special(byte: u8) -> bool {
    matches!(byte, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Token<'a> {
        let bytes = self.text.as_bytes();
        while self.at < bytes.len() && matches!(bytes[self.at], b' ' | b'\t' | b'\r' | b'\n') {
            self.at += 1;
        }
        let start = self.at;
        let Some(first) = bytes.get(start) else { return Token::End };
        if is_special(*first) {
            // The longest operator that begins here.
            let two = bytes.get(start + 1);
            let (token, length) = match (first, two) {
                (b'=', Some(b'=')) => (Token::DoubleEquals, 2),
                (b'!', Some(b'=')) => (Token::NotEquals, 2),
                (b'=', _) => (Token::Equals, 1),
                (b'!', _) => (Token::Not, 1),
                (b'(', _) => (Token::Open, 1),
                (b')', _) => (Token::Close, 1),
                (b',', _) => (Token::Comma, 1),
                (b'>', _) => (Token::Greater, 1),
                (b'<', _) => (Token::Less, 1),
                _ => (Token::Error(&self.text[start..=start]), 1),
            };
            self.at += length;
            return token;
        }
        while self.at < bytes.len()
            && !is_special(bytes[self.at])
            && !matches!(bytes[self.at], b' ' | b'\t' | b'\r' | b'\n')
        {
            self.at += 1;
        }
        match &self.text[start..self.at] {
            "in" => Token::In,
            "notin" => Token::NotIn,
            word => Token::Word(word),
        }
    }

    /// The next token where a key or value stands: `in` and `notin` are words there.
    fn next_word(&mut self) -> Token<'a> {
        as_word(self.next())
    }

    fn peek(&mut self) -> Token<'a> {
        let at = self.at;
        let token = self.next();
        self.at = at;
        token
    }

    fn peek_word(&mut self) -> Token<'a> {
        as_word(self.peek())
    }

    fn requirement(&mut self) -> Result<Requirement, Error> {
        let mut token = self.next_word();
        let absent = token == Token::Not;
        if absent {
            token = self.next_word();
        }
        let Token::Word(key) = token else {
            return Err(Error(format!("found '{}', expected: identifier", token.text())));
        };
        if absent {
            return Requirement::new(key, Operator::DoesNotExist, []);
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, []);
        }
        let (operator, many) = match self.next() {
            Token::In => (Operator::In, true),
            Token::NotIn => (Operator::NotIn, true),
            Token::Equals | Token::DoubleEquals => (Operator::In, false),
            Token::NotEquals => (Operator::NotIn, false),
            Token::Greater => (Operator::GreaterThan, false),
            Token::Less => (Operator::LessThan, false),
            other => return Err(Error(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text()))),
        };
        let values = if many { self.values()? } else { vec![self.exact_value()?] };
        Requirement::new(key, operator, values)
    }

    fn exact_value(&mut self) -> Result<Str, Error> {
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(Str::default());
        }
        match self.next_word() {
            Token::Word(word) => Ok(word.into()),
            other => Err(Error(format!("found '{}', expected: identifier", other.text()))),
        }
    }

    fn values(&mut self) -> Result<Vec<Str>, Error> {
        let open = self.next_word();
        if open != Token::Open {
            return Err(Error(format!("found '{}', expected: '('", open.text())));
        }
        match self.peek_word() {
            Token::Close => {
                self.next();
                return Ok(Vec::new());
            }
            Token::Word(_) | Token::Comma => {}
            other => return Err(Error(format!("found '{}', expected: ',', ')' or identifier", other.text()))),
        }
        let mut values: Vec<Str> = Vec::new();
        loop {
            match self.next_word() {
                Token::Word(word) => {
                    values.push(word.into());
                    match self.peek_word() {
                        Token::Comma => {}
                        Token::Close => break,
                        other => return Err(Error(format!("found '{}', expected: ',' or ')'", other.text()))),
                    }
                }
                Token::Comma => {
                    if values.is_empty() {
                        values.push(Str::default());
                    }
                    match self.peek_word() {
                        Token::Close => {
                            values.push(Str::default());
                            break;
                        }
                        Token::Comma => values.push(Str::default()),
                        _ => {}
                    }
                }
                other => return Err(Error(format!("found '{}', expected: ',', or identifier", other.text()))),
            }
        }
        self.next(); // the closing parenthesis that ended the loop
        Ok(values)
    }
}

fn as_word(token: Token<'_>) -> Token<'_> {
    match token {
        Token::In => Token::Word("in"),
        Token::NotIn => Token::Word("notin"),
        other => other,
    }
}

/// The conditions of `text`, in the order written.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, Error> {
    let mut parser = Parser { text, at: 0 };
    let mut requirements = Vec::new();
    loop {
        match parser.peek_word() {
            Token::Word(_) | Token::Not => {
                let one = parser.requirement();
                requirements.push(one.map_err(|error| Error(format!("unable to parse requirement: {error}")))?);
                match parser.next_word() {
                    Token::End => return Ok(requirements),
                    Token::Comma => match parser.peek_word() {
                        Token::Word(_) | Token::Not => {}
                        other => {
                            return Err(Error(format!("found '{}', expected: identifier after ','", other.text())));
                        }
                    },
                    other => return Err(Error(format!("found '{}', expected: ',' or 'end of string'", other.text()))),
                }
            }
            Token::End => return Ok(requirements),
            other => {
                return Err(Error(format!("found '{}', expected: !, identifier, or 'end of string'", other.text())));
            }
        }
    }
}
