//! Why a ceiling is what it is: for people, with the figures that moved it; for metrics, a label.

use core::fmt;

/// What moved a ceiling, or kept it.
#[derive(Clone, PartialEq, Debug)]
pub enum Reason {
    /// The policy never moves it.
    Fixed,
    /// An operator pinned it.
    Pinned,
}

impl Reason {
    /// One of few words, for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Pinned => "pinned",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed => f.write_str("fixed"),
            Self::Pinned => f.write_str("pinned by an operator"),
        }
    }
}
