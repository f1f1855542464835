//! The view store: where both layers write their states and the serving layer reads them.
//!
//! [`store`] is the port and its promises.

pub mod error;
pub mod store;

pub use error::StoreError;
pub use store::{
    DeltaWrite, KeyRange, Origin, Progress, PublishOutcome, StateRows, ViewDeltas, ViewRead, ViewStore, WriteOutcome,
};
