//! What went wrong, where, and how it is told.
//!
//! Everything that a user's file, picture or option can cause is a
//! [`Diagnostic`], also a wrong program that the kernel's checker stops; our other
//! mistakes are assertions. Spans are byte ranges into a
//! [`Sources`] entry; line and column are computed only when a message is
//! rendered.

use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The model, the weights, an input or an option is wrong.
    Invalid,
    /// Valid Caffe that caffec does not do.
    Unsupported,
    /// The file leaves open what it takes to go on, and is right without.
    Open,
    /// The operating system said no.
    Io,
    /// A mistake of ours, found before it did harm.
    Bug,
}

/// A file known to [`Sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// A range of bytes of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    pub file: FileId,
    pub start: u32,
    pub end: u32,
}

/// One message to the user.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    pub kind: Kind,
    pub message: String,
    pub at: Option<Span>,
    /// Other places that explain the message.
    pub related: Vec<(Span, String)>,
    /// Name of the Caffe layer concerned.
    pub layer: Option<String>,
    /// What the user can do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Diagnostic {
            kind,
            message: message.into(),
            at: None,
            related: Vec::new(),
            layer: None,
            help: None,
        }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Kind::Bug, message)
            .help("this is a mistake of caffec: please report it, if you can with the file")
    }

    /// A failed operation on the file `path`; `Invalid` if its content is the reason.
    pub fn io(path: &Path, error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::InvalidData => Kind::Invalid,
            _ => Kind::Io,
        };
        Self::new(kind, format!("{}: {error}", path.display()))
    }

    #[must_use]
    pub fn at(mut self, span: impl Into<Option<Span>>) -> Self {
        self.at = self.at.or(span.into());
        self
    }

    #[must_use]
    pub fn layer(mut self, name: impl Into<String>) -> Self {
        self.layer.get_or_insert(name.into());
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub fn related(mut self, span: Span, note: impl Into<String>) -> Self {
        self.related.push((span, note.into()));
        self
    }
}

/// One or more diagnostics, in the order in which they should be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Errors(pub Vec<Diagnostic>);

impl From<Diagnostic> for Errors {
    fn from(d: Diagnostic) -> Self {
        Errors(vec![d])
    }
}

impl Errors {
    /// `Ok(value)` if nothing was gathered.
    pub fn none_or<T>(gathered: Vec<Diagnostic>, value: T) -> Result<T> {
        if gathered.is_empty() {
            Ok(value)
        } else {
            Err(Errors(gathered))
        }
    }

    /// Applies `f` to each diagnostic, for example to add the layer's name.
    #[must_use]
    pub fn map(self, f: impl FnMut(Diagnostic) -> Diagnostic) -> Self {
        Errors(self.0.into_iter().map(f).collect())
    }
}

impl fmt::Display for Errors {
    /// Messages without positions; [`Sources::render`] gives them with.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            if let Some(layer) = &d.layer {
                write!(f, "layer `{}`: ", clean(layer))?;
            }
            write!(f, "{}", clean(&d.message))?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

pub type Result<T, E = Errors> = std::result::Result<T, E>;

/// The files that spans point into.
#[derive(Default, Debug)]
pub struct Sources {
    files: Vec<File>,
}

#[derive(Debug)]
struct File {
    name: String,
    text: Vec<u8>,
    /// Where lines start, once a position was asked for: a file may have as many errors
    /// as lines.
    lines: OnceLock<Vec<usize>>,
}

impl File {
    fn lines(&self) -> &[usize] {
        let after = |(i, &b): (usize, &u8)| (b == b'\n').then_some(i + 1);
        let starts = || self.text.iter().enumerate().filter_map(after);
        self.lines
            .get_or_init(|| std::iter::once(0).chain(starts()).collect())
    }
}

impl Sources {
    /// Registers a file's text under the name that messages give it.
    pub fn add(&mut self, name: impl Into<String>, text: Vec<u8>) -> FileId {
        self.files.push(File {
            name: name.into(),
            text,
            lines: OnceLock::new(),
        });
        FileId(self.files.len() as u32 - 1)
    }

    pub fn text(&self, file: FileId) -> &[u8] {
        &self.files[file.0 as usize].text
    }

    pub fn name(&self, file: FileId) -> &str {
        &self.files[file.0 as usize].name
    }

    /// Line and column of a span's start, both from 1. Columns count bytes; a tab
    /// goes on to the next multiple of 8, as in protobuf's own messages.
    pub fn position(&self, span: Span) -> (usize, usize) {
        let text = self.text(span.file);
        let at = (span.start as usize).min(text.len());
        let lines = self.files[span.file.0 as usize].lines();
        let line = lines.partition_point(|&start| start <= at);
        let column = text[lines[line - 1]..at]
            .iter()
            .fold(0, |column, &b| match b {
                b'\t' => column + 8 - column % 8,
                _ => column + 1,
            });
        (line, column + 1)
    }

    fn place(&self, span: Span) -> String {
        let (line, column) = self.position(span);
        format!("{}:{line}:{column}", clean(self.name(span.file)))
    }

    /// `file:line:col: error: layer `x`: unsupported: message`, then notes and help,
    /// each on a line of its own. Control characters of the file's own words are
    /// escaped, so that a message never moves the cursor.
    pub fn render(&self, d: &Diagnostic) -> String {
        self.render_as("error", d)
    }

    /// The same, as something to know: `file:line:col: note: …`.
    pub fn render_note(&self, d: &Diagnostic) -> String {
        self.render_as("note", d)
    }

    fn render_as(&self, what: &str, d: &Diagnostic) -> String {
        let mut out = match d.at {
            Some(span) => format!("{}: {what}: ", self.place(span)),
            None => format!("{what}: "),
        };
        if let Some(layer) = &d.layer {
            out += &format!("layer `{}`: ", clean(layer));
        }
        out += match d.kind {
            Kind::Unsupported => "unsupported: ",
            Kind::Bug => "internal error: ",
            Kind::Invalid | Kind::Open | Kind::Io => "",
        };
        out += &clean(&d.message);
        for (span, note) in &d.related {
            out += &format!("\n{}: note: {}", self.place(*span), clean(note));
        }
        if let Some(help) = &d.help {
            out += &format!("\n  help: {}", clean(help));
        }
        out
    }

    /// The messages, one after the other, up to a number that somebody may read.
    pub fn render_all(&self, errors: &Errors) -> String {
        const MOST: usize = 1000;
        let shown = errors.0.iter().take(MOST).map(|d| self.render(d));
        let more = errors.0.len().checked_sub(MOST + 1);
        let more = more.map(|n| format!("error: and {} more errors", n + 1));
        shown.chain(more).collect::<Vec<_>>().join("\n")
    }
}

/// `text` with control and direction-changing characters escaped and cut to a
/// length that a terminal can bear.
pub fn clean(text: &str) -> String {
    const LIMIT: usize = 1000;
    let mut out = String::with_capacity(text.len().min(LIMIT));
    for (i, c) in text.chars().enumerate() {
        if i == LIMIT {
            out.push('…');
            break;
        }
        let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if c.is_control() && c != '\t' || hidden {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The candidate nearest to `word` (Damerau–Levenshtein), if near enough to be
/// what was meant.
pub fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = (word.chars().count() / 4).clamp(1, 3);
    candidates
        .into_iter()
        .filter(|c| c.len().abs_diff(word.len()) <= limit)
        .map(|c| (edit_distance(&word.to_lowercase(), &c.to_lowercase()), c))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_bytes_and_tabs() {
        let mut sources = Sources::default();
        let file = sources.add("net.prototxt", b"a: 1\n\tb: 2\n".to_vec());
        let span = |start| Span {
            file,
            start,
            end: start + 1,
        };
        assert_eq!(sources.position(span(0)), (1, 1));
        assert_eq!(sources.position(span(6)), (2, 9));
        let d = Diagnostic::unsupported("no such thing")
            .at(span(6))
            .layer("p\u{202e}1");
        assert_eq!(
            sources.render(&d),
            "net.prototxt:2:9: error: layer `p\\u{202e}1`: unsupported: no such thing"
        );
        assert!(
            sources
                .render(&Diagnostic::bug("overlap"))
                .starts_with("error: internal error: overlap\n  help: ")
        );
    }

    #[test]
    fn suggestions_are_near() {
        let fields = ["kernel_size", "kernel_h", "stride"];
        assert_eq!(did_you_mean("kernal_size", fields), Some("kernel_size"));
        assert_eq!(did_you_mean("stirde", fields), Some("stride"));
        assert_eq!(did_you_mean("top", fields), None);
    }
}
