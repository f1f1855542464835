//! What ids stand for: asked once, by one, and kept for ever.
//!
//! An id the registry does not know is waited for, because a registry may be behind what it has acknowledged. Whoever writes into the log
//! may make ids up, though, as many as they like. So waiting is rationed for all ids together: the first unknown one
//! opens a span of `unknown_wait`, all that come in it wait to its end at most, and after it, if it brought nothing, none is waited
//! for until `unknown_rest` has gone by since it began. An id that was waited for in vain is remembered, and asked for again, without
//! waiting, when somebody wants it after `unknown_kept`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::{Mutex, RwLock};
use schema_registry_converter::schema_registry_common::SrCall;
use tokio::time::Instant;

use super::http::{Failure, Servers};
use super::options::ConfluentOptions;
use super::references;
use crate::error::{LogError, Result};

/// The first pause before an unknown id is asked for again; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How many unknown ids are remembered.
const REMEMBERED: usize = 10_000;

/// All ids somebody has asked for.
pub(super) struct Lookups {
    servers: Arc<Servers>,
    waits: Waits,
    known: RwLock<HashMap<u32, Arc<str>>>,
    under_way: Mutex<HashMap<u32, Shared<BoxFuture<'static, Answer>>>>,
    unknown: Mutex<Unknown>,
}

#[derive(Clone, Copy)]
struct Waits {
    wait: Duration,
    rest: Duration,
    kept: Duration,
}

/// What a lookup came to; everybody who waits for it gets it.
#[derive(Clone)]
enum Answer {
    Known(Arc<str>),
    /// The reason.
    Missing(Arc<str>),
    Useless(Arc<str>),
    Down(Arc<str>),
}

impl Lookups {
    pub fn new(servers: Arc<Servers>, options: &ConfluentOptions) -> Arc<Self> {
        let waits = Waits { wait: options.unknown_wait, rest: options.unknown_rest, kept: options.unknown_kept };
        Arc::new(Self {
            servers,
            waits,
            known: RwLock::default(),
            under_way: Mutex::default(),
            unknown: Mutex::default(),
        })
    }

    /// The schema with an id.
    pub async fn schema(self: &Arc<Self>, id: u32) -> Result<Arc<str>> {
        if let Some(schema) = self.known.read().get(&id) {
            return Ok(schema.clone());
        }
        let remembered = self.unknown.lock().remembered(id, self.waits.kept);
        let answer = match remembered {
            Some(answer) => answer,
            None => self.lookup(id).await,
        };
        match answer {
            Answer::Known(schema) => Ok(schema),
            Answer::Missing(reason) => Err(LogError::NotFound(format!("schema {id} ({reason})"))),
            Answer::Useless(reason) => Err(LogError::Invalid(format!("schema {id}: {reason}"))),
            Answer::Down(reason) => {
                Err(LogError::unavailable(format!("schema registry (registry.url): reading schema {id}"), &*reason))
            }
        }
    }

    /// Joins the lookup that is under way, or begins one. It goes on when whoever began it no longer cares.
    fn lookup(self: &Arc<Self>, id: u32) -> Shared<BoxFuture<'static, Answer>> {
        let mut under_way = self.under_way.lock();
        if let Some(lookup) = under_way.get(&id) {
            return lookup.clone();
        }
        // One that has just ended has left it there first.
        if let Some(schema) = self.known.read().get(&id) {
            return std::future::ready(Answer::Known(schema.clone())).boxed().shared();
        }
        let lookups = self.clone();
        let task = tokio::spawn(async move {
            let answer = lookups.run(id).await;
            lookups.under_way.lock().remove(&id);
            answer
        });
        let lookup = async move { task.await.unwrap_or_else(|failed| Answer::Down(failed.to_string().into())) };
        let lookup = lookup.boxed().shared();
        under_way.insert(id, lookup.clone());
        lookup
    }

    async fn run(&self, id: u32) -> Answer {
        let mut pause = FIRST_PAUSE;
        loop {
            let failure = match self.fetch(id).await {
                Ok(schema) => {
                    self.known.write().insert(id, schema.clone());
                    self.unknown.lock().found(id);
                    return Answer::Known(schema);
                }
                Err(failure) => failure,
            };
            let answer = match failure {
                Failure::Denied(reason) | Failure::Down(reason) => return Answer::Down(reason.into()),
                Failure::Missing(reason) => Answer::Missing(reason.into()),
                Failure::Refused(reason) | Failure::Conflict(reason) => Answer::Useless(reason.into()),
            };
            let now = Instant::now();
            let wait = matches!(answer, Answer::Missing(_));
            let deadline = wait.then(|| self.unknown.lock().deadline(id, now, self.waits)).flatten();
            match deadline {
                Some(deadline) if now < deadline => {
                    tokio::time::sleep(pause.min(deadline - now)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                _ => {
                    self.unknown.lock().remember(id, now, answer.clone());
                    return answer;
                }
            }
        }
    }

    async fn fetch(&self, id: u32) -> Result<Arc<str>, Failure> {
        let answer = self.servers.ask(SrCall::GetById(id)).await?;
        references::whole(&self.servers, answer).await
    }
}

/// Ids without a usable schema.
#[derive(Default)]
struct Unknown {
    /// When each was last asked for, and what came of it.
    ids: HashMap<u32, (Instant, Answer)>,
    /// When the last span of waiting began.
    span: Option<Instant>,
}

impl Unknown {
    fn remembered(&self, id: u32, kept: Duration) -> Option<Answer> {
        let (asked, answer) = self.ids.get(&id)?;
        (asked.elapsed() < kept).then(|| answer.clone())
    }

    /// Until when an unknown id may be waited for.
    fn deadline(&mut self, id: u32, now: Instant, waits: Waits) -> Option<Instant> {
        if self.ids.contains_key(&id) {
            return None;
        }
        if self.span.is_none_or(|began| now >= began + waits.rest.max(waits.wait)) {
            self.span = Some(now);
        }
        self.span.map(|began| began + waits.wait)
    }

    fn remember(&mut self, id: u32, now: Instant, answer: Answer) {
        if self.ids.len() >= REMEMBERED
            && !self.ids.contains_key(&id)
            && let Some(oldest) = self.ids.iter().min_by_key(|(_, (asked, _))| *asked).map(|(id, _)| *id)
        {
            self.ids.remove(&oldest);
        }
        self.ids.insert(id, (now, answer));
    }

    /// Waiting was not in vain: the next unknown id is waited for in full.
    fn found(&mut self, id: u32) {
        self.ids.remove(&id);
        self.span = None;
    }
}
