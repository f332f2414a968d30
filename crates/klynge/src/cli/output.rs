//! Data goes to stdout, progress to stderr; colour only where a person sees it and NO_COLOR is not set.

use object::{Value, json, meta};
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::OnceLock;

/// The first error of stdout.
static LOST: OnceLock<io::Error> = OnceLock::new();

fn note(outcome: io::Result<()>) {
    if let Err(error) = outcome
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = LOST.set(error); // the first one tells enough
    }
}

/// How objects are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
    /// The text form with more columns
    Wide,
    /// kind/name, one a line
    Name,
}

/// Where a command's words go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// None for the text form.
    pub(crate) format: Option<Format>,
    quiet: bool,
    colour: bool,
}

impl Output {
    /// As the global options say.
    pub(crate) fn new(format: Option<Format>, quiet: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Output { format, quiet, colour: wanted && io::stderr().is_terminal() }
    }

    /// A line of progress on stderr.
    pub(crate) fn progress(&self, text: &str) {
        if !self.quiet {
            let (on, off) = if self.colour { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
            let _ = writeln!(io::stderr(), "{on}{text}{off}"); // nobody listens: nothing to be done about it
        }
    }

    /// A line of data on stdout. A closed pipe ends the reader's interest, not the command; any other error is kept for its end.
    pub(crate) fn line(&self, text: &str) {
        note(writeln!(io::stdout(), "{text}"));
    }

    /// Why stdout did not take all that was written to it; None where it did.
    pub(crate) fn lost(&self) -> Option<String> {
        note(io::stdout().flush());
        LOST.get()
            .map(|error| format!("cannot write to stdout: {error}; what was asked for is done, its output is lost"))
    }

    /// An error on stderr.
    pub(crate) fn error(&self, text: &str) {
        let (on, off) = if self.colour { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(io::stderr(), "{on}error:{off} {text}");
    }

    /// True where a machine-readable form of the object was printed, so that no text form is wanted.
    pub(crate) fn object(&self, value: &Value) -> bool {
        match self.format {
            Some(Format::Json) => self.line(&String::from_utf8_lossy(&json::encode(value))),
            Some(Format::Yaml) => self.line(object::yaml::encode(value).trim_end()),
            Some(Format::Name) => {
                let kind = value.str_at(&["kind"]).unwrap_or_default().to_lowercase();
                self.line(&format!("{kind}/{}", meta::name(value)));
            }
            Some(Format::Wide) | None => return false,
        }
        true
    }

    /// Columns, as wide as their widest cell.
    pub(crate) fn table(&self, heads: &[&str], rows: &[Vec<String>]) {
        let width = |at: usize| {
            let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
            cells.chain([heads.get(at).map_or(0, |head| head.len())]).max().unwrap_or_default()
        };
        let print = |cells: Vec<&str>| {
            let padded = cells.iter().enumerate().map(|(at, cell)| format!("{cell:<width$}", width = width(at)));
            self.line(padded.collect::<Vec<_>>().join("   ").trim_end());
        };
        print(heads.to_vec());
        for row in rows {
            print(row.iter().map(String::as_str).collect());
        }
    }
}
