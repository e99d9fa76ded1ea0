//! Why an image cannot be built or run: what is wrong, where, and what would put it right.

use std::fmt;
use std::path::{Path, PathBuf};

/// What every fallible function here answers.
pub type Result<T> = std::result::Result<T, Error>;

/// A line of a file that a person wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1 on.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file.display(), self.line)
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    place: Option<Place>,
    what: String,
    remedy: Option<String>,
}

impl Error {
    /// `what` is wrong.
    pub fn new(what: impl Into<String>) -> Error {
        Error { place: None, what: what.into(), remedy: None }
    }

    /// Reading, writing or starting `path` failed.
    pub fn io(doing: &str, path: &Path, cause: &std::io::Error) -> Error {
        Error::new(format!("cannot {doing} {}: {cause}", path.display()))
    }

    /// It is wrong at `place`.
    pub fn at(mut self, place: &Place) -> Error {
        self.place = Some(place.clone());
        self
    }

    /// What to do about it.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Error {
        self.remedy = Some(remedy.into());
        self
    }

    /// The line it is about.
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.line)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(out, "{place}: ")?;
        }
        out.write_str(&self.what)?;
        match &self.remedy {
            Some(remedy) => write!(out, "\n  remedy: {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}
