//! The view store: where both layers write their states and the serving layer reads them.
//!
//! [`store`] is the port and its promises; [`embedded`] keeps it on one machine, [`cql`] on ScyllaDB or Cassandra;
//! [`conformance`] checks the promises of any backend, and [`faults`] makes one fail, for simulations.

pub mod conformance;
pub mod cql;
mod delta_write;
pub mod embedded;
pub mod error;
pub mod faults;
pub mod store;
mod tiles;

pub use cql::{CqlOptions, CqlStore};
pub use embedded::{EmbeddedOptions, EmbeddedStore};
pub use error::StoreError;
pub use faults::{FaultRates, FaultyStore};
pub use store::{
    Beside, DeltaWrite, KeyRange, Origin, Priors, Progress, PublishOutcome, StateRows, ViewDeltas, ViewRead, ViewStore,
    WriteOutcome,
};
