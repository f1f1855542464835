//! Waiting until the archive holds what a run needs.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use event_log::archive::Archive;
use event_log::archiver::Archiver;
use event_log::error::Result;
use views::{Offset, TopicPartition};

/// Somebody who knows how far a partition is archived.
#[async_trait]
pub trait SealedUpTo: Send + Sync + 'static {
    /// Returns once every segment of `partition` that ends at or before `offset`, a cut, is in the archive.
    async fn wait_sealed(&self, partition: &TopicPartition, offset: Offset) -> Result<()>;
}

#[async_trait]
impl SealedUpTo for Archiver {
    async fn wait_sealed(&self, partition: &TopicPartition, offset: Offset) -> Result<()> {
        Archiver::wait_sealed(self, partition, offset).await
    }
}

/// Finds out by looking at the archive again and again: for a process without an archiver of its own.
#[derive(Debug, Clone)]
pub struct PolledArchive {
    archive: Arc<Archive>,
    every: Duration,
}

impl PolledArchive {
    /// Looks at `archive` every `every`.
    pub fn new(archive: Arc<Archive>, every: Duration) -> Self {
        Self { archive, every }
    }
}

#[async_trait]
impl SealedUpTo for PolledArchive {
    async fn wait_sealed(&self, partition: &TopicPartition, offset: Offset) -> Result<()> {
        loop {
            let segments = self.archive.list(partition).await?;
            if segments.last().map_or(0, |segment| segment.end) >= offset {
                return Ok(());
            }
            tokio::time::sleep(self.every).await;
        }
    }
}
