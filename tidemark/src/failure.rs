//! Why a command ends without having done its work.

use std::fmt;

/// A message for a person, and the process's exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong, and what to do about it where that is known.
    pub message: String,
    /// 1: the work failed, or found something. 2: it was asked for in a wrong way, or cannot be done by this version.
    pub exit: u8,
}

/// The result of a command.
pub type Result<T = (), E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure of the work.
    pub fn new(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), exit: 1 }
    }

    /// A failure of the question.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), exit: 2 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Says what was being done when an error came up.
pub trait Context<T> {
    /// Puts `what` and a colon before the error's own words.
    ///
    /// # Errors
    ///
    /// The same error, in more words.
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Failure::new(format!("{what}: {error}")))
    }
}
