//! What readers see, and when it may change.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::place::Offsets;
use crate::view::Fingerprint;

/// The one value that says which generation readers see. It is read and written whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The generation's number: that of its marker.
    pub generation: u64,
    /// One cut per partition: the generation holds everything before it, and nothing past it.
    pub frontier: Offsets,
    /// The views it holds, each with the fingerprint its states were made under. A view that is missing here, or
    /// has another fingerprint by now, has no generation: its answers come from deltas alone.
    pub views: BTreeMap<Arc<str>, Fingerprint>,
}

/// What publishing a generation comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishDecision {
    /// It becomes the visible generation.
    Publish,
    /// It is the visible generation already: the run died after publishing and was run again.
    AlreadyVisible,
    /// A newer one is visible; this one steps aside and its rows are garbage.
    Superseded {
        /// The generation that is visible.
        by: u64,
    },
    /// Its frontier would move back in some partition. Never published: a run with such a frontier is wrong.
    MovesBack,
}

/// Decides whether `next` may replace `current`.
pub fn decide(current: Option<&Published>, next: &Published) -> PublishDecision {
    let Some(current) = current else {
        return PublishDecision::Publish;
    };
    if next.generation < current.generation {
        return PublishDecision::Superseded { by: current.generation };
    }
    if next.generation == current.generation {
        return PublishDecision::AlreadyVisible;
    }
    if !next.frontier.covers(&current.frontier) {
        return PublishDecision::MovesBack;
    }
    PublishDecision::Publish
}
