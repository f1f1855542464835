//! Which layers a process runs.

/// What a process is for. Every one of them answers HTTP; what differs is the layers it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// All layers in one process.
    Everything,
    /// The speed layer: some partitions, shared with others of the same role.
    Speed,
    /// The archiver of all topics; others may race.
    Archive,
    /// Batch runs: by the timer, or when asked.
    Batch,
    /// Questions and events.
    Serve,
}

impl Role {
    /// The command it is started by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Everything => "run",
            Self::Speed => "speed",
            Self::Archive => "archive",
            Self::Batch => "batch",
            Self::Serve => "serve",
        }
    }

    /// Whether it follows the log.
    pub fn keeps_deltas(self) -> bool {
        matches!(self, Self::Everything | Self::Speed)
    }

    /// Whether it archives.
    pub fn archives(self) -> bool {
        matches!(self, Self::Everything | Self::Archive)
    }

    /// Whether it makes generations by itself.
    pub fn makes_generations(self) -> bool {
        matches!(self, Self::Everything | Self::Batch)
    }

    /// Whether it is ready only when the deltas reach where the log ended at its start: questions are its business.
    pub fn waits_for_deltas(self) -> bool {
        matches!(self, Self::Everything | Self::Serve)
    }
}
