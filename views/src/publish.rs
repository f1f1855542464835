//! What readers see, and when it may change.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::place::Offsets;
use crate::view::{Fingerprint, View};

/// The one value that says which generation readers see. It is read and written whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The generation's number: that of its marker.
    pub generation: u64,
    /// One cut per partition: the generation holds everything before it, and nothing past it.
    pub frontier: Offsets,
    /// The views it holds, each with the fingerprint its states were made under.
    pub views: BTreeMap<Arc<str>, Fingerprint>,
    /// Views that it does not hold and an earlier generation did: each stays at that one, whose rows and frontier go on
    /// counting for it. A view that is in neither list has no generation: its answers come from deltas alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<Behind>,
}

/// A view that stays at an earlier generation: it could not be recomputed, or the run did not know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// The view's name.
    pub view: Arc<str>,
    /// The fingerprint its states were made under.
    pub fingerprint: Fingerprint,
    /// The number of the last generation that holds it.
    pub generation: u64,
    /// The frontier of that generation.
    pub frontier: Offsets,
}

impl Published {
    /// What there is of a view: the number of its generation, and that one's frontier. `None` when no generation holds it
    /// under its fingerprint.
    pub fn of(&self, view: &View) -> Option<(u64, &Offsets)> {
        self.of_definition(&view.name, &view.fingerprint)
    }

    /// The same by name and fingerprint.
    pub fn of_definition(&self, name: &str, fingerprint: &Fingerprint) -> Option<(u64, &Offsets)> {
        if self.views.get(name) == Some(fingerprint) {
            return Some((self.generation, &self.frontier));
        }
        let behind = self.behind.iter().find(|behind| *behind.view == *name && behind.fingerprint == *fingerprint)?;
        Some((behind.generation, &behind.frontier))
    }

    /// The value as a view sees it that stays behind: that of its own generation.
    pub fn as_of(&self, name: &Arc<str>, fingerprint: &Fingerprint) -> Option<Published> {
        let (generation, frontier) = self.of_definition(name, fingerprint)?;
        if generation == self.generation {
            return Some(self.clone());
        }
        let views = [(name.clone(), fingerprint.clone())].into();
        Some(Self { generation, frontier: frontier.clone(), views, behind: Vec::new() })
    }

    /// Forgets that it has anything of a view.
    pub fn forget(&mut self, name: &str, fingerprint: &Fingerprint) {
        if self.views.get(name) == Some(fingerprint) {
            self.views.remove(name);
        }
        self.behind.retain(|behind| *behind.view != *name || behind.fingerprint != *fingerprint);
    }

    fn held(&self) -> impl Iterator<Item = Behind> + '_ {
        let own = self.views.iter().map(|(view, fingerprint)| Behind {
            view: view.clone(),
            fingerprint: fingerprint.clone(),
            generation: self.generation,
            frontier: self.frontier.clone(),
        });
        own.chain(self.behind.iter().cloned())
    }
}

/// What publishing a generation comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishDecision {
    /// This becomes visible: the generation, and every view that it leaves out and the visible one has, at what it has.
    /// So nobody who publishes, however little he knows of the views, takes the ground from under a view whose deltas before
    /// its frontier are gone. Letting go of a view is `retire`'s, which forgets all of it at once.
    Publish(Published),
    /// It is the visible generation already: an acknowledgement was lost.
    AlreadyVisible,
    /// A newer one is visible, or one of the same number that holds other views: this one steps aside, its rows are garbage.
    Superseded {
        /// The generation that is visible.
        by: u64,
    },
    /// Its frontier would move back in some partition. Never published: a run with such a frontier is wrong.
    MovesBack,
}

/// Decides whether `next` may replace `current`. What `next` says of views behind is not asked.
pub fn decide(current: Option<&Published>, next: &Published) -> PublishDecision {
    let Some(current) = current else {
        return PublishDecision::Publish(Published { behind: Vec::new(), ..next.clone() });
    };
    if next.generation < current.generation {
        return PublishDecision::Superseded { by: current.generation };
    }
    if next.generation == current.generation {
        let is_visible = next.views.iter().all(|view| current.views.get_key_value(view.0) == Some(view));
        let superseded = PublishDecision::Superseded { by: current.generation };
        return if is_visible { PublishDecision::AlreadyVisible } else { superseded };
    }
    if !next.frontier.covers(&current.frontier) {
        return PublishDecision::MovesBack;
    }
    let left_out = |held: &Behind| next.views.get(&held.view) != Some(&held.fingerprint);
    PublishDecision::Publish(Published { behind: current.held().filter(left_out).collect(), ..next.clone() })
}
