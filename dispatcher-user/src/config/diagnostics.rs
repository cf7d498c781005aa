//! What is wrong in a configuration, and where. What is right is decided elsewhere.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::iter;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::FILE_BYTES_MAX;

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// The file could not be read.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What it says is wrong.
    Wrong {
        /// The file.
        file: PathBuf,
        /// All that is wrong, in the order of the file; at least one.
        problems: Vec<Problem>,
    },
}

impl fmt::Display for ConfigError {
    /// One line for each problem, as compilers print them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, source } => write!(f, "{}: {source}", file.display()),
            Self::Wrong { file, problems } => {
                for (index, problem) in problems.iter().enumerate() {
                    let newline = if index == 0 { "" } else { "\n" };
                    let Problem {
                        line,
                        column,
                        message,
                    } = problem;
                    write!(f, "{newline}{}:{line}:{column}: {message}", file.display())?;
                }
                Ok(())
            }
        }
    }
}

// No source: `Unreadable` tells it itself.
impl std::error::Error for ConfigError {}

/// The bytes of the file, [`FILE_BYTES_MAX`] at most.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        file: file.to_path_buf(),
        source,
    };
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|open| open.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() > FILE_BYTES_MAX {
        let message = format!("larger than {FILE_BYTES_MAX} bytes, the most that is read");
        return Err(unreadable(io::Error::new(
            io::ErrorKind::FileTooLarge,
            message,
        )));
    }
    Ok(bytes)
}

/// Most problems told of one file; the rest are counted.
const PROBLEMS_MAX: usize = 100;

/// Collects problems while a text is read.
pub(super) struct Diagnostics<'a> {
    text: &'a str,
    /// Byte offsets.
    line_starts: Vec<usize>,
    found: RefCell<Vec<(usize, String)>>,
}

impl<'a> Diagnostics<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            line_starts: iter::once(0).chain(newlines).collect(),
            found: RefCell::default(),
        }
    }

    /// Notes a problem at a byte offset.
    pub(super) fn note(&self, at: usize, message: String) {
        self.found.borrow_mut().push((at, message));
    }

    /// Line, from 1, of a byte offset.
    pub(super) fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at)
    }

    /// Line and column, from 1, of a byte offset.
    pub(super) fn position(&self, at: usize) -> (usize, usize) {
        let line = self.line(at);
        let at = at.min(self.text.len());
        let before = &self.text.as_bytes()[self.line_starts[line - 1]..at];
        (line, String::from_utf8_lossy(before).chars().count() + 1)
    }

    /// What was noted, in the order of the text.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut found = self.found.take();
        found.sort_by_key(|(at, _)| *at);
        if let Some(more @ 1..) = found.len().checked_sub(PROBLEMS_MAX) {
            found.truncate(PROBLEMS_MAX);
            let last = found.last().map_or(0, |(at, _)| *at);
            found.push((last, format!("{more} more problems after this one")));
        }
        found
            .into_iter()
            .map(|(at, message)| {
                let (line, column) = self.position(at);
                Problem {
                    line,
                    column,
                    message,
                }
            })
            .collect()
    }
}
