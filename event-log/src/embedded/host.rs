//! The machine under the embedded log: time, chance and the writes that can fail.
//!
//! Reads go to the file system directly. What decides whether an append is acknowledged goes through here, so that a test
//! can fill the disk, fail a sync or stop the clock.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What the embedded log asks of the machine it runs on.
pub trait Host: Send + Sync + 'static {
    /// The wall clock: microseconds since the epoch.
    fn now(&self) -> i64;
    /// A number nobody can guess, one per log file.
    fn salt(&self) -> u32;
    /// Writes all of `bytes` at a place in a file.
    ///
    /// # Errors
    ///
    /// When not all were written; some may have been.
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes what was written to a file survive a power cut.
    ///
    /// # Errors
    ///
    /// When it is not known to have become durable.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Cuts a file back to `length` bytes.
    ///
    /// # Errors
    ///
    /// When the file may be longer than that.
    fn truncate(&self, file: &File, length: u64) -> io::Result<()>;
}

/// The real machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Machine;

impl Host for Machine {
    fn now(&self) -> i64 {
        chrono::Utc::now().timestamp_micros()
    }

    fn salt(&self) -> u32 {
        // The low 32 bits of a version 4 UUID are all random.
        uuid::Uuid::new_v4().as_u128() as u32
    }

    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }
}
