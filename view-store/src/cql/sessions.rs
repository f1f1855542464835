//! The connections of a handle.
//!
//! The driver's connections live on the runtime on which they were opened. Whoever asks from another thread wakes that one, and is woken
//! by it when the answer is there: two switches for a read whose own work takes less than either. A server whose workers each
//! have a thread and a runtime therefore gives each connections of its own: a question and its rows then stay on one thread.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Weak};
use std::thread::{self, ThreadId};
use std::time::Duration;

use parking_lot::RwLock;
use scylla::client::session::Session;

use super::{CqlStore, Inner, connect};

/// How long to wait before asking again for connections that could not be had.
const AGAIN: Duration = Duration::from_secs(5);

/// The connections that everybody shares, and those of threads that have their own.
pub struct Sessions {
    shared: Arc<Session>,
    /// `None`: they are on their way.
    own: RwLock<HashMap<ThreadId, Option<Arc<Session>>>>,
}

impl Sessions {
    pub fn new(shared: Session) -> Self {
        Self { shared: Arc::new(shared), own: RwLock::default() }
    }

    /// Those that everybody shares.
    pub fn shared(&self) -> &Session {
        &self.shared
    }

    /// This thread's own, if it has any.
    pub fn here(&self) -> Arc<Session> {
        let own = self.own.read();
        own.get(&thread::current().id()).and_then(Option::as_ref).unwrap_or(&self.shared).clone()
    }
}

/// A thread's place among those that have their own connections.
struct Place {
    inner: Weak<Inner>,
    thread: ThreadId,
}

impl Place {
    /// This thread's, unless somebody has it.
    fn take(inner: &Arc<Inner>) -> Option<Self> {
        let thread = thread::current().id();
        match inner.sessions.own.write().entry(thread) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => {
                place.insert(None);
                Some(Self { inner: Arc::downgrade(inner), thread })
            }
        }
    }

    fn fill(&self, session: Session) {
        if let Some(inner) = self.inner.upgrade() {
            inner.sessions.own.write().insert(self.thread, Some(Arc::new(session)));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.sessions.own.write().remove(&self.thread);
        }
    }
}

impl CqlStore {
    /// Gives the thread that polls this connections of its own, for as long as it is polled: it does not end by itself unless the
    /// thread has some. For the single-threaded runtimes of a server's workers. Until they are there, and where they cannot be had,
    /// reads go over those that all threads share.
    pub async fn own_connections(self) {
        let Some(place) = Place::take(&self.0) else { return };
        let options = self.0.options.clone();
        // The place knows the handle and does not keep it.
        drop(self);
        loop {
            match connect::connect(&options).await {
                Ok(session) => break place.fill(session),
                Err(error) => tracing::warn!(%error, "a worker goes on with the connections that all share"),
            }
            tokio::time::sleep(AGAIN).await;
        }
        std::future::pending::<()>().await;
    }

    /// Whether this thread has connections of its own now.
    pub fn has_own_connections(&self) -> bool {
        self.0.sessions.own.read().get(&thread::current().id()).is_some_and(Option::is_some)
    }
}
