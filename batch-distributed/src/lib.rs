//! The batch layer's recomputing on several machines: each view is a job on a Ballista cluster.
//!
//! Only who computes the states is another: marking, sealing, publishing and retiring are `batch_layer`'s, and so is the code that
//! executors run (`docs/decisions/0007-distributed-batch-on-ballista.md`). Everything is behind the feature `ballista`.
//!
//! Read in this order: [`engine`] (what the batch layer sees), `plan` (what a job is), `assignment` (what executors are told), `told` (what
//! they tell), `cluster` (the scheduler's side of a job), `codec` (how plans travel), [`processes`] (scheduler and executors).
#![cfg(feature = "ballista")]

mod assignment;
mod cluster;
mod codec;
pub mod engine;
mod plan;
pub mod processes;
mod told;

pub use assignment::Worker;
pub use engine::{BallistaEngine, Settings};
pub use processes::{ExecutorSettings, SchedulerSettings, run_executor, run_scheduler};
