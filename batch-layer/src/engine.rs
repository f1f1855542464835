//! The DataFusion that a run uses: its memory, its threads, its place to spill.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};

use views::View;

use crate::memory::{self, RunMemory};

/// How many states are handed on at once when each may be big.
const BIG_STATES_ROWS: usize = 512;

/// How a run may use the machine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How much memory the operators may hold before they spill.
    pub memory_bytes: usize,
    /// How many threads work at once.
    pub target_partitions: usize,
    /// Where operators spill. It belongs to this layer alone.
    pub spill_dir: PathBuf,
    /// How long a run waits for the archive before it gives up.
    pub seal_timeout: Duration,
    /// How many rows operators hand on at once.
    pub batch_rows: usize,
}

impl Settings {
    /// 512 MiB, every core, ten minutes.
    pub fn new(spill_dir: impl Into<PathBuf>) -> Self {
        Self {
            memory_bytes: 512 << 20,
            target_partitions: std::thread::available_parallelism().map_or(1, usize::from),
            spill_dir: spill_dir.into(),
            seal_timeout: Duration::from_secs(600),
            batch_rows: 8192,
        }
    }
}

/// A DataFusion with bounded memory.
#[derive(Clone)]
pub(crate) struct Engine {
    config: SessionConfig,
    runtime: Arc<RuntimeEnv>,
}

impl Engine {
    /// For batch runs.
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        Self::with_memory(settings, Arc::new(RunMemory::new(settings.memory_bytes)))
    }

    /// For any SQL: DataFusion's own pool, whose shares are looser.
    pub(crate) fn plain(settings: &Settings) -> Result<Self> {
        Self::with_memory(settings, Arc::new(FairSpillPool::new(settings.memory_bytes)))
    }

    fn with_memory(settings: &Settings, memory: Arc<dyn MemoryPool>) -> Result<Self> {
        std::fs::create_dir_all(&settings.spill_dir).map_err(DataFusionError::IoError)?;
        let spill = DiskManagerMode::Directories(vec![settings.spill_dir.clone()]);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(memory)
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(spill))
            .build_arc()?;
        let partitions = settings.target_partitions.max(1);
        let mut config =
            SessionConfig::new().with_target_partitions(partitions).with_batch_size(settings.batch_rows.max(1));
        // Each sort sets this much aside for merging what it spilled. With the default of 10 MiB, a few of them would
        // leave a small memory nothing to work with.
        let options = &mut config.options_mut().execution;
        options.sort_spill_reservation_bytes =
            options.sort_spill_reservation_bytes.min(memory::set_aside(settings.memory_bytes, partitions));
        Ok(Self { config, runtime })
    }

    /// A session to recompute a view in.
    pub(crate) fn session(&self, view: &View) -> SessionContext {
        let mut config = self.config.clone();
        // Operators account for whole batches. A state of a sketch or a set can be as big as some thousand counts.
        let states = view.state_schema.fields().iter().skip(view.group_schema.fields().len());
        if states.map(|field| field.data_type()).any(|data_type| data_type.primitive_width().is_none()) {
            config = config.with_batch_size(self.config.batch_size().min(BIG_STATES_ROWS));
        }
        SessionContext::new_with_config_rt(config, self.runtime.clone())
    }
}
