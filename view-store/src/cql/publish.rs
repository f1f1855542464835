//! Publishing: one conditional write of the pointer.

use views::Published;
use views::publish::{PublishDecision, decide};

use super::Inner;
use super::pointer::{Contest, Known, Pointer};
use crate::error::{Result, StoreError};
use crate::store::PublishOutcome;

/// What is to be done about the pointer.
enum Step {
    Write(Pointer),
    Done(PublishOutcome),
}

impl Inner {
    /// See [`crate::ViewStore::publish`]. Decided over what was read, written if that is still there; otherwise decided again.
    pub async fn publish(&self, next: &Published) -> Result<PublishOutcome> {
        let mut contest = Contest::new();
        loop {
            let known = self.settled_pointer().await?;
            let pointer = match self.next_pointer(&known, next).await? {
                Step::Write(pointer) => pointer,
                Step::Done(outcome) => return Ok(outcome),
            };
            match self.swap_pointer(&known, &pointer).await? {
                Ok(true) => {
                    self.saw(known.version + 1);
                    return Ok(PublishOutcome::Published);
                }
                Ok(false) => contest.lost("publishing", "others publish all the time").await?,
                // Should it have been written after all, the next decision says so.
                Err(error) => contest.lost("publishing", error).await?,
            }
        }
    }

    async fn next_pointer(&self, known: &Known, next: &Published) -> Result<Step> {
        let current = known.pointer.published.as_ref();
        let visible = match decide(current, next) {
            PublishDecision::Publish(visible) => visible,
            PublishDecision::AlreadyVisible => return Ok(Step::Done(PublishOutcome::AlreadyVisible)),
            PublishDecision::Superseded { by } => return Ok(Step::Done(PublishOutcome::Superseded { by })),
            PublishDecision::MovesBack => {
                let (generation, frontier) = (next.generation, &next.frontier);
                let visible = current.map(|current| current.frontier.to_string()).unwrap_or_default();
                return Err(StoreError::Invalid(format!(
                    "generation {generation} would move the frontier back from {visible} to {frontier}"
                )));
            }
        };
        let generation = next.generation;
        for (name, fingerprint) in &next.views {
            if known.pointer.find(name, fingerprint).is_none() {
                return Err(not_written(generation, name));
            }
        }
        let mut pointer = known.pointer.clone();
        for view in &mut pointer.views {
            if next.views.get(&view.name) == Some(&view.fingerprint) {
                let complete = self.complete_attempt(&view.table, generation).await?;
                view.held = Some(complete.ok_or_else(|| not_written(generation, &view.name))?);
            } else if visible.of_definition(&view.name, &view.fingerprint).is_none() {
                view.held = None;
            }
        }
        for behind in &visible.behind {
            let held = pointer.find(&behind.view, &behind.fingerprint).and_then(|view| view.held);
            if held.is_none_or(|held| held.generation != behind.generation) {
                let (generation, view) = (behind.generation, &behind.view);
                return Err(StoreError::Damaged(format!("generation {generation} of `{view}` is gone")));
            }
        }
        pointer.published = Some(visible);
        Ok(Step::Write(pointer))
    }
}

fn not_written(generation: u64, view: &str) -> StoreError {
    StoreError::Invalid(format!("generation {generation} of view `{view}` was not written"))
}
