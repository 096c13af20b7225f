//! Protobuf text format → a tree of fields with the place of every token.
//!
//! In: the bytes of a prototxt. Out: a [`Tree`], its fields in the order of the
//! text, each message followed by what is in it; nothing is known yet about types.
//! Tokens are parsed with nom, the nesting with an explicit stack, so that depth
//! costs memory only and the time is linear. The parser stops at the first error
//! and hands out the tree up to there: a field that the schema refuses may come
//! earlier, and then that is the error to tell (see [`super::parse_text`]).
//!
//! Start reading at [`parse`]. The rules are those of protobuf 3.21's
//! `TextFormat::Parser` and `io::Tokenizer`.

use std::borrow::Cow;
use std::num::NonZeroU32;

use nom::branch::alt;
use nom::bytes::complete::{tag, take_till, take_while, take_while1};
use nom::character::complete::{char, one_of};
use nom::combinator::{cut, opt, recognize, value};
use nom::error::{ErrorKind, ParseError};
use nom::multi::{many0_count, many1_count};
use nom::sequence::{pair, preceded};
use nom::{IResult, Parser};

/// A half-open range of bytes of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub start: u32,
    pub end: u32,
}

impl Extent {
    pub fn of<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        &text[self.start as usize..self.end as usize]
    }
}

/// What stands after a field's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Decimal, octal (`010`) or hexadecimal (`0x10`).
    Integer,
    /// A number with a point, an exponent or the suffix `f`.
    Float,
    /// An identifier: a boolean, an enum value, `inf`, `nan`.
    Word,
    /// One or more quoted strings side by side; see [`unquote`].
    String,
    /// `{ … }` or `< … >`.
    Message,
    /// `[]`.
    EmptyList,
    /// Nothing: the text is wrong after the name.
    Missing,
}

/// One `name: value`; an element of a list is a field of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The identifier, or `[…]` for an extension.
    pub name: Extent,
    /// The value without its minus; for a message, brace to brace.
    pub token: Extent,
    pub minus: Option<NonZeroU32>,
    /// Where the `[` of the list stands.
    pub list: Option<NonZeroU32>,
    pub kind: Kind,
    pub colon: bool,
    /// Index after the last field inside this one.
    pub end: u32,
}

impl Field {
    /// Name to end of value.
    pub fn extent(&self) -> Extent {
        Extent {
            start: self.name.start,
            end: self.token.end.max(self.name.end),
        }
    }

    /// Where the value begins, its minus included.
    pub fn value_start(&self) -> u32 {
        self.minus.map_or(self.token.start, NonZeroU32::get)
    }
}

#[derive(Debug, Default)]
pub struct Tree {
    pub fields: Vec<Field>,
}

/// Where and why the text is wrong.
#[derive(Debug, PartialEq)]
pub struct SyntaxError {
    pub at: u32,
    pub message: String,
    /// Another place that explains it, with what to say there.
    pub related: Option<(u32, String)>,
}

/// Longest text in bytes, as in protobuf.
pub const MAX_TEXT: usize = i32::MAX as usize;

/// Parses all of `text`. The tree is complete if there is no error, and otherwise
/// holds the fields up to the place of the error.
pub fn parse(text: &[u8]) -> (Tree, Option<SyntaxError>) {
    let mut parser = TreeParser::new(text);
    let error = if text.len() > MAX_TEXT {
        Some(SyntaxError {
            at: 0,
            message: format!("the text has {} bytes, more than 2 GiB", text.len()),
            related: None,
        })
    } else if let Some(message) = unreadable(text) {
        Some(SyntaxError {
            at: 0,
            message: message.to_string(),
            related: None,
        })
    } else {
        parser.run().err()
    };
    parser.close_all();
    (parser.tree, error)
}

/// What a file is that cannot be a prototxt or a caffemodel, by its first bytes.
pub fn foreign(bytes: &[u8]) -> Option<&'static str> {
    const HDF5: &[u8] = b"\x89HDF\r\n\x1a\n";
    let head = bytes[..bytes.len().min(256)].trim_ascii_start();
    let lower = head.to_ascii_lowercase();
    Some(match () {
        _ if bytes.starts_with(b"\x1f\x8b") => "this is a gzip file: unpack it first",
        _ if bytes.starts_with(b"PK\x03\x04") => "this is a zip file: unpack it first",
        _ if bytes.starts_with(HDF5) => "this is an HDF5 file: weights in HDF5 go with -w",
        _ if lower.starts_with(b"<!doctype") || lower.starts_with(b"<html") => {
            "this is an HTML page: the download went wrong"
        }
        _ if bytes.starts_with(b"b0VIM ") => {
            "this is a swap file of the editor Vim, not the file that was edited"
        }
        _ if head.starts_with(b"version https://git-lfs") => {
            "this is a git-lfs pointer, the file itself was not fetched: run `git lfs pull`"
        }
        _ => return None,
    })
}

/// What may be behind a syntax error at `at`.
pub fn hint(text: &[u8], at: u32) -> Option<&'static str> {
    let (before, rest) = text.split_at_checked(at as usize)?;
    match rest {
        [b'$' | b'%' | b'@', ..] => Some("this looks like a placeholder of a template: fill it in"),
        [b'{', ..] if before.ends_with(b"{") => {
            Some("`{{` looks like that of a template: fill it in")
        }
        [b'.' | b'/' | b'~', ..] if before.trim_ascii_end().ends_with(b":") => {
            Some("is it a string? Then a quote is missing before it")
        }
        [b'a'..=b'z' | b'A'..=b'Z' | b'_', ..] if before.last().is_some_and(u8::is_ascii_digit) => {
            Some("this is no number; is it a string? Then quotes are missing around it")
        }
        _ => None,
    }
}

fn unreadable(text: &[u8]) -> Option<&'static str> {
    Some(match text {
        [0xef, 0xbb, 0xbf, ..] => {
            "the file starts with a byte order mark, which Caffe refuses: save it without"
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "this is UTF-16 text: save it as UTF-8",
        _ => return foreign(text),
    })
}

// ---------------------------------------------------------------- nesting

struct TreeParser<'a> {
    text: &'a [u8],
    rest: &'a [u8],
    tree: Tree,
    open: Vec<Frame>,
}

/// A message or list that is not closed yet.
#[derive(Clone, Copy)]
enum Frame {
    Message { field: usize, close: u8 },
    List { head: Head, value_next: bool },
}

/// What precedes a value.
#[derive(Clone, Copy)]
struct Head {
    name: Extent,
    colon: bool,
    list: Option<NonZeroU32>,
}

impl<'a> TreeParser<'a> {
    fn new(text: &'a [u8]) -> Self {
        TreeParser {
            text,
            rest: text,
            tree: Tree {
                fields: Vec::with_capacity(text.len().min(MAX_TEXT) / 32),
            },
            open: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<(), SyntaxError> {
        loop {
            self.take(blank)?;
            match self.open.last().copied() {
                None if self.rest.is_empty() => return Ok(()),
                None => self.field()?,
                Some(Frame::Message { field, close }) => match self.rest.first() {
                    Some(&byte) if byte == close => self.close_message(field)?,
                    Some(b'}' | b'>') => return Err(self.wrong_close(field, close)),
                    Some(_) => self.field()?,
                    None => return Err(self.never_closed(field, close)),
                },
                Some(Frame::List { head, value_next }) => self.list_item(head, value_next)?,
            }
        }
    }

    fn field(&mut self) -> Result<(), SyntaxError> {
        let start = self.position();
        self.take(field_name)?;
        let name = self.since(start);
        let mut head = Head {
            name,
            colon: false,
            list: None,
        };
        self.take(blank)?;
        head.colon = self.eat(b':');
        let after = self.after_name(&mut head);
        if after.is_err() && self.tree.fields.last().is_none_or(|f| f.name != name) {
            let missing = self.since(self.position());
            self.push(head, Kind::Missing, missing, None);
        }
        after
    }

    fn after_name(&mut self, head: &mut Head) -> Result<(), SyntaxError> {
        self.take(blank)?;
        match self.rest.first() {
            Some(b'[') => {
                head.list = NonZeroU32::new(self.position());
                self.rest = &self.rest[1..];
                self.take(blank)?;
                self.start_list(*head)
            }
            Some(b'{' | b'<') => self.value(*head),
            _ if head.colon => self.value(*head),
            _ => Err(self.error(self.position(), "expected `:` or `{`")),
        }
    }

    fn start_list(&mut self, head: Head) -> Result<(), SyntaxError> {
        if self.rest.first() == Some(&b']') {
            let end = self.since(self.position());
            self.push(head, Kind::EmptyList, end, None);
        }
        self.open.push(Frame::List {
            head,
            value_next: self.rest.first() != Some(&b']'),
        });
        Ok(())
    }

    fn list_item(&mut self, head: Head, value_next: bool) -> Result<(), SyntaxError> {
        if value_next {
            self.expect_value_next(false);
            return self.value(head);
        }
        if self.eat(b',') {
            self.expect_value_next(true);
            Ok(())
        } else if self.eat(b']') {
            self.open.pop();
            self.separator()
        } else {
            Err(self.error(self.position(), "expected `,` or `]` in a list"))
        }
    }

    fn expect_value_next(&mut self, next: bool) {
        if let Some(Frame::List { value_next, .. }) = self.open.last_mut() {
            *value_next = next;
        }
    }

    fn value(&mut self, head: Head) -> Result<(), SyntaxError> {
        let start = self.position();
        if let Some(&open @ (b'{' | b'<')) = self.rest.first() {
            self.rest = &self.rest[1..];
            let field = self.tree.fields.len();
            let token = self.since(start);
            self.push(head, Kind::Message, token, None);
            let close = if open == b'{' { b'}' } else { b'>' };
            self.open.push(Frame::Message { field, close });
            return Ok(());
        }
        let minus = self.eat(b'-').then(|| NonZeroU32::new(start)).flatten();
        self.take(blank)?;
        let start = self.position();
        let kind = self.take(scalar)?;
        if minus.is_some() && kind == Kind::String {
            return Err(self.error(start, "expected a number after `-`"));
        }
        let token = self.since(start);
        self.push(head, kind, token, minus);
        if head.list.is_none() {
            self.separator()?;
        }
        Ok(())
    }

    fn close_message(&mut self, field: usize) -> Result<(), SyntaxError> {
        self.rest = &self.rest[1..];
        self.open.pop();
        let end = self.position();
        self.finish(field, end);
        match self.open.last() {
            Some(Frame::List { .. }) => Ok(()),
            _ => self.separator(),
        }
    }

    fn finish(&mut self, field: usize, end: u32) {
        let next = self.tree.fields.len() as u32;
        let field = &mut self.tree.fields[field];
        field.token.end = end;
        field.end = next;
    }

    /// Ends every message that an error left open.
    fn close_all(&mut self) {
        let end = self.position();
        while let Some(frame) = self.open.pop() {
            if let Frame::Message { field, .. } = frame {
                self.finish(field, end);
            }
        }
    }

    /// At most one `,` or `;` after a field.
    fn separator(&mut self) -> Result<(), SyntaxError> {
        self.take(blank)?;
        if !self.eat(b',') {
            self.eat(b';');
        }
        Ok(())
    }

    fn push(&mut self, head: Head, kind: Kind, token: Extent, minus: Option<NonZeroU32>) {
        self.tree.fields.push(Field {
            name: head.name,
            token,
            minus,
            list: head.list,
            kind,
            colon: head.colon,
            end: self.tree.fields.len() as u32 + 1,
        });
    }

    fn position(&self) -> u32 {
        (self.text.len() - self.rest.len()) as u32
    }

    fn since(&self, start: u32) -> Extent {
        Extent {
            start,
            end: self.position(),
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.rest.first() == Some(&byte);
        self.rest = &self.rest[usize::from(found)..];
        found
    }

    /// Applies a token's parser.
    fn take<T>(&mut self, parse: impl FnOnce(&'a [u8]) -> Parse<'a, T>) -> Result<T, SyntaxError> {
        match parse(self.rest) {
            Ok((rest, value)) => {
                self.rest = rest;
                Ok(value)
            }
            Err(nom::Err::Error(fault) | nom::Err::Failure(fault)) => {
                let at = (self.text.len() - fault.at.len()) as u32;
                Err(self.error(at, fault.expected))
            }
            Err(nom::Err::Incomplete(_)) => unreachable!("complete parsers know the end"),
        }
    }

    fn error(&self, at: u32, expected: &str) -> SyntaxError {
        let rest = &self.text[at as usize..];
        let message = match conflict_marker(self.text, at) {
            Some(marker) => format!("`{marker}` is a conflict left over from a merge"),
            None => format!("{expected}{}", found(rest)),
        };
        SyntaxError {
            at,
            message,
            related: None,
        }
    }

    fn wrong_close(&self, field: usize, close: u8) -> SyntaxError {
        let close = close as char;
        let mut error = self.error(self.position(), &format!("expected `{close}`"));
        error.related = Some((self.tree.fields[field].token.start, "opened here".into()));
        error
    }

    fn never_closed(&self, field: usize, close: u8) -> SyntaxError {
        let field = &self.tree.fields[field];
        let name = String::from_utf8_lossy(field.name.of(self.text)).into_owned();
        let mut error = self.error(
            self.position(),
            &format!("expected `{}` to close `{name}`", close as char),
        );
        error.related = Some((field.token.start, format!("`{name}` is opened here")));
        error
    }
}

/// `, found …` for what stands at `rest`, with a hint where the usual cause is known.
fn found(rest: &[u8]) -> String {
    let word = rest
        .iter()
        .take_while(|b| b.is_ascii_alphanumeric() || **b == b'_')
        .take(40)
        .count();
    match rest {
        [] => ", found the end of the file".into(),
        [b'\n', ..] | [b'\r', b'\n', ..] => ", found the end of the line".into(),
        [0, ..] => ", found a NUL byte: this is not text".into(),
        [b, ..] if b.is_ascii_control() => {
            format!(", found control character \\x{b:02x}: this is not text")
        }
        [0xe2, 0x80, 0x98..=0x9f, ..] => ", found a typographic quote: write \" or '".into(),
        [0xc2, 0xa0, ..] => ", found a no-break space".into(),
        [b, ..] if !b.is_ascii() => format!(", found byte \\x{b:02x}, which is not ASCII"),
        [b'/', b'/' | b'*', ..] => ", found `/`: comments start with `#`".into(),
        _ => format!(
            ", found `{}`",
            String::from_utf8_lossy(&rest[..word.max(1)])
        ),
    }
}

/// The merge marker that starts the line at `at`, if one does.
fn conflict_marker(text: &[u8], at: u32) -> Option<&'static str> {
    let before = &text[..at as usize];
    let line = before
        .iter()
        .rposition(|&b| b == b'\n')
        .map_or(0, |i| i + 1);
    ["<<<<<<<", "=======", ">>>>>>>"]
        .into_iter()
        .find(|marker| text[line..].starts_with(marker.as_bytes()))
}

// ---------------------------------------------------------------- tokens

/// A token that could not be read, and where.
#[derive(Debug)]
struct Fault<'a> {
    at: &'a [u8],
    expected: &'static str,
}

impl<'a> ParseError<&'a [u8]> for Fault<'a> {
    fn from_error_kind(at: &'a [u8], _: ErrorKind) -> Self {
        Fault {
            at,
            expected: "unexpected text",
        }
    }

    fn append(_: &'a [u8], _: ErrorKind, other: Self) -> Self {
        other
    }
}

type Parse<'a, T> = IResult<&'a [u8], T, Fault<'a>>;

fn fail<'a, T>(at: &'a [u8], expected: &'static str) -> Parse<'a, T> {
    Err(nom::Err::Failure(Fault { at, expected }))
}

/// Requires a parser to match, or else says what was expected.
fn demand<'a, T>(
    expected: &'static str,
    mut parser: impl Parser<&'a [u8], Output = T, Error = Fault<'a>>,
) -> impl FnMut(&'a [u8]) -> Parse<'a, T> {
    move |input| match parser.parse(input) {
        Err(nom::Err::Error(_)) => fail(input, expected),
        result => result,
    }
}

/// White space and comments, possibly none.
fn blank(input: &[u8]) -> Parse<'_, ()> {
    let space = take_while1(|b| matches!(b, b' ' | b'\t'..=b'\r'));
    let comment = recognize(pair(char('#'), take_till(|b| b == b'\n' || b == 0)));
    value((), many0_count(alt((space, comment)))).parse(input)
}

fn identifier(input: &[u8]) -> Parse<'_, &[u8]> {
    recognize(pair(
        take_while1(|b: u8| b.is_ascii_alphabetic() || b == b'_'),
        take_while(|b: u8| b.is_ascii_alphanumeric() || b == b'_'),
    ))
    .parse(input)
}

/// An identifier, or an extension's name in brackets.
fn field_name(input: &[u8]) -> Parse<'_, &[u8]> {
    demand(
        "expected a field name",
        alt((identifier, recognize(pair(char('['), cut(extension_name))))),
    )(input)
}

fn extension_name(input: &[u8]) -> Parse<'_, ()> {
    let part = |input| {
        let (input, ()) = blank(input)?;
        let (input, _) = demand("expected an identifier", identifier)(input)?;
        blank(input)
    };
    let (input, ()) = part(input)?;
    let (input, _) = many0_count(preceded(char('.'), part)).parse(input)?;
    value((), demand("expected `]`", char(']'))).parse(input)
}

fn scalar(input: &[u8]) -> Parse<'_, Kind> {
    match input.first() {
        Some(b'"' | b'\'') => strings(input),
        Some(b'0'..=b'9' | b'.') => number(input),
        _ => value(Kind::Word, demand("expected a value", identifier)).parse(input),
    }
}

/// Strings side by side make one.
fn strings(input: &[u8]) -> Parse<'_, Kind> {
    let (mut input, ()) = string(input)?;
    loop {
        let (next, ()) = blank(input)?;
        if !matches!(next.first(), Some(b'"' | b'\'')) {
            return Ok((input, Kind::String));
        }
        (input, ()) = string(next)?;
    }
}

fn string(input: &[u8]) -> Parse<'_, ()> {
    let (mut input, quote) = one_of("\"'").parse(input)?;
    loop {
        (input, _) =
            take_till(|b| b == quote as u8 || matches!(b, b'\\' | b'\n' | 0)).parse(input)?;
        match input.first() {
            Some(b'\\') => (input, ()) = escape(&input[1..])?,
            Some(b'\n') => return fail(input, "expected the closing quote"),
            Some(0) | None => return fail(input, "expected the closing quote"),
            Some(_) => return Ok((&input[1..], ())),
        }
    }
}

/// What may follow a backslash; further octal or hexadecimal digits are left to
/// [`unquote`].
fn escape(input: &[u8]) -> Parse<'_, ()> {
    let hex = |count: usize, expected| {
        move |input| {
            let (rest, digits) = take_while_at_most(count, input, |b| b.is_ascii_hexdigit());
            match digits == count {
                true => Ok((rest, ())),
                false => fail(rest, expected),
            }
        }
    };
    match input.first() {
        Some(b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v') => Ok((&input[1..], ())),
        Some(b'\\' | b'?' | b'\'' | b'"' | b'0'..=b'7') => Ok((&input[1..], ())),
        Some(b'x') => hex(1, "expected a hexadecimal digit")(&input[1..]),
        Some(b'u') => hex(4, "expected four hexadecimal digits")(&input[1..]),
        Some(b'U') => preceded(
            demand(
                "expected eight hexadecimal digits up to 001fffff",
                alt((tag("000"), tag("001"))),
            ),
            hex(5, "expected eight hexadecimal digits"),
        )
        .parse(&input[1..]),
        _ => fail(
            input,
            "unknown escape: write `\\\\` for a backslash; expected one of abfnrtv\\?'\"xuU0-7",
        ),
    }
}

fn take_while_at_most(count: usize, input: &[u8], is: impl Fn(u8) -> bool) -> (&[u8], usize) {
    let found = input.iter().take(count).take_while(|b| is(**b)).count();
    (&input[found..], found)
}

fn number(input: &[u8]) -> Parse<'_, Kind> {
    let hex = preceded(
        (char('0'), one_of("xX")),
        cut(demand(
            "expected hexadecimal digits",
            take_while1(|b: u8| b.is_ascii_hexdigit()),
        )),
    );
    let (rest, kind) = alt((value(Kind::Integer, hex), octal, decimal)).parse(input)?;
    match rest.first() {
        Some(b) if b.is_ascii_alphabetic() || *b == b'_' => {
            fail(rest, "expected a space between number and identifier")
        }
        Some(b'.') if kind == Kind::Float => fail(rest, "the number already has a point"),
        Some(b'.') => fail(rest, "octal and hexadecimal numbers have no point"),
        _ => Ok((rest, kind)),
    }
}

fn octal(input: &[u8]) -> Parse<'_, Kind> {
    let mut digits = preceded(char('0'), take_while1(|b: u8| b.is_ascii_digit()));
    let (rest, digits) = digits.parse(input)?;
    match digits.iter().position(|b| *b > b'7') {
        Some(bad) => fail(
            &input[1 + bad..],
            "expected octal digits after the leading zero",
        ),
        None => Ok((rest, Kind::Integer)),
    }
}

fn decimal(input: &[u8]) -> Parse<'_, Kind> {
    let digits = |input| take_while(|b: u8| b.is_ascii_digit()).parse(input);
    let (rest, whole) = digits(input)?;
    let (rest, point) = opt(pair(char('.'), digits)).parse(rest)?;
    if whole.is_empty() && point.is_none_or(|(_, fraction)| fraction.is_empty()) {
        return fail(input, "expected a value");
    }
    let (rest, exponent) = opt(preceded(
        (one_of("eE"), opt(one_of("+-"))),
        cut(demand(
            "expected the exponent's digits",
            many1_count(one_of("0123456789")),
        )),
    ))
    .parse(rest)?;
    let (rest, suffix) = opt(one_of("fF")).parse(rest)?;
    let float = point.is_some() || exponent.is_some() || suffix.is_some();
    Ok((rest, if float { Kind::Float } else { Kind::Integer }))
}

// ---------------------------------------------------------------- values of strings

/// The bytes that the strings in `token` (a [`Kind::String`]) stand for.
pub fn unquote(token: &[u8]) -> Cow<'_, [u8]> {
    if let [quote, body @ .., _] = token
        && !body.iter().any(|b| b == quote || *b == b'\\')
    {
        return Cow::Borrowed(body);
    }
    let mut out = Vec::with_capacity(token.len());
    let mut rest = token;
    while let Some((&quote, body)) = rest.split_first() {
        rest = unquote_one(quote, body, &mut out);
        rest = blank(rest).map_or(&[], |(rest, ())| rest);
    }
    Cow::Owned(out)
}

/// Appends one string's bytes and returns what follows its closing quote.
fn unquote_one<'a>(quote: u8, mut body: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    while let Some((&byte, rest)) = body.split_first() {
        body = rest;
        match byte {
            b'\\' => body = unescape(body, out),
            _ if byte == quote => break,
            _ => out.push(byte),
        }
    }
    body
}

/// Appends what the escape at `input` (after its backslash) stands for.
fn unescape<'a>(input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let Some((&letter, rest)) = input.split_first() else {
        return input;
    };
    let simple = |byte, out: &mut Vec<u8>| {
        out.push(byte);
        rest
    };
    match letter {
        b'a' => simple(7, out),
        b'b' => simple(8, out),
        b'f' => simple(12, out),
        b'n' => simple(b'\n', out),
        b'r' => simple(b'\r', out),
        b't' => simple(b'\t', out),
        b'v' => simple(11, out),
        b'0'..=b'7' => {
            let (rest, digits) = take_while_at_most(3, input, |b| matches!(b, b'0'..=b'7'));
            out.push(digits_value(&input[..digits], 8) as u8);
            rest
        }
        b'x' => {
            let (after, digits) = take_while_at_most(2, rest, |b| b.is_ascii_hexdigit());
            out.push(digits_value(&rest[..digits], 16) as u8);
            after
        }
        b'u' => unescape_utf16(rest, out),
        b'U' => {
            let (code, after) = rest.split_at(rest.len().min(8));
            if !push_code_point(digits_value(code, 16), out) {
                // As protobuf does: what no code point answers to stays as it is.
                out.extend_from_slice(b"\\U");
                out.extend_from_slice(code);
            }
            after
        }
        other => simple(other, out),
    }
}

/// `\uXXXX`, or two of them that make a surrogate pair.
fn unescape_utf16<'a>(rest: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let (code, after) = rest.split_at(rest.len().min(4));
    let code = digits_value(code, 16);
    if let (0xd800..=0xdbff, [b'\\', b'u', low @ ..]) = (code, after)
        && let low_code @ 0xdc00..=0xdfff = digits_value(&low[..low.len().min(4)], 16)
    {
        push_code_point(0x10000 + ((code - 0xd800) << 10) + (low_code - 0xdc00), out);
        return &low[4..];
    }
    push_code_point(code, out);
    after
}

fn digits_value(digits: &[u8], radix: u32) -> u32 {
    let digit = |b: &u8| (*b as char).to_digit(radix).unwrap_or(0);
    digits.iter().fold(0, |n, b| n * radix + digit(b))
}

/// UTF-8 of a code point, also of a lone surrogate; false if there is no such.
fn push_code_point(code: u32, out: &mut Vec<u8>) -> bool {
    match char::from_u32(code) {
        Some(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        None if code < 0x10000 => out.extend_from_slice(&[
            0xe0 | (code >> 12) as u8,
            0x80 | (code >> 6 & 0x3f) as u8,
            0x80 | (code & 0x3f) as u8,
        ]),
        None => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<&str> {
        let (tree, error) = parse(text.as_bytes());
        assert_eq!(error, None, "{text}");
        let name = |f: &Field| std::str::from_utf8(f.name.of(text.as_bytes())).unwrap();
        tree.fields.iter().map(name).collect()
    }

    fn error(text: &[u8]) -> (u32, String) {
        let error = parse(text).1.expect("an error");
        (error.at, error.message)
    }

    #[test]
    fn fields_come_in_order_and_know_their_subtree() {
        let text = "a { b: 1 # c\n c < d: [1, - 2] > } e: 'x' \"y\";";
        assert_eq!(names(text), ["a", "b", "c", "d", "d", "e"]);
        let (tree, _) = parse(text.as_bytes());
        let ends: Vec<u32> = tree.fields.iter().map(|f| f.end).collect();
        assert_eq!(ends, [5, 2, 5, 4, 5, 6]);
        assert_eq!(tree.fields[4].token.of(text.as_bytes()), b"2");
        assert!(tree.fields[4].minus.is_some());
        assert_eq!(tree.fields[5].token.of(text.as_bytes()), b"'x' \"y\"");
    }

    #[test]
    fn errors_stand_at_the_wrong_byte() {
        assert_eq!(error(b"a: 1.2.3").0, 6);
        assert_eq!(error(b"a: 0x").0, 5);
        assert_eq!(error(b"a: 09").0, 4);
        assert_eq!(error(b"a { b: 1 >").0, 9);
        assert_eq!(error(b"a: \"x\\q\"").0, 6);
        assert_eq!(error(b"a: [1, 2,]").0, 9);
        assert!(error(b"a\n<<<<<<< HEAD").1.contains("merge"));
        assert!(error(b"a: 1\n<<<<<<< HEAD\n").1.contains("merge"));
        assert!(error(b"\x1f\x8b\x08").1.contains("gzip"));
        assert!(error(b"\n<!DOCTYPE html>").1.contains("HTML"));
        assert!(error(b"\xef\xbb\xbfa: 1").1.contains("byte order mark"));
        assert!(error(b"a: 1\0").1.contains("NUL"));
    }

    #[test]
    fn what_was_read_before_an_error_is_kept() {
        let (tree, error) = parse(b"a { b: 1 c = 2 }");
        assert_eq!(error.unwrap().at, 11);
        let kinds: Vec<Kind> = tree.fields.iter().map(|f| f.kind).collect();
        assert_eq!(kinds, [Kind::Message, Kind::Integer, Kind::Missing]);
        assert_eq!(tree.fields[0].end, 3);
    }

    #[test]
    fn depth_costs_no_stack() {
        let text = "a {".repeat(1_000_000);
        let (tree, error) = parse(text.as_bytes());
        assert_eq!(tree.fields.len(), 1_000_000);
        assert_eq!(error.unwrap().at, 3_000_000);
    }

    #[test]
    fn escapes() {
        assert_eq!(
            unquote(
                br#""a\n\101\x4a1" # c
            '\u20ac"'"#
            ),
            "a\nAJ1€\"".as_bytes()
        );
        assert_eq!(unquote(br#""\ud83d\ude00\0""#), "😀\0".as_bytes());
        assert_eq!(unquote(br#""\U00110000""#), &br"\U00110000"[..]);
    }
}
