//! Where the registry is, and how patient we are with it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How a registry is reached.
#[derive(Clone)]
pub struct ConfluentOptions {
    /// Its addresses, with commas between them: tried in turn. A user and a password may stand in them.
    pub urls: String,
    /// Who asks, for basic authentication.
    pub user: Option<String>,
    /// That user's password.
    pub password: Option<String>,
    /// A bearer token, instead of a user.
    pub token: Option<String>,
    /// A PEM file with the certificates of the authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// How long one request may take.
    pub timeout: Duration,
    /// How long an unknown id is waited for: a registry may be behind what it has acknowledged.
    pub unknown_wait: Duration,
    /// How long after such a wait began, if it was in vain, unknown ids are not waited for again. So ids that somebody makes up
    /// delay reading by `unknown_wait` in each of these spans, however many there are.
    pub unknown_rest: Duration,
    /// How long an unknown id is taken to be unknown before it is asked for again.
    pub unknown_kept: Duration,
}

impl ConfluentOptions {
    /// The defaults, for a registry at these addresses.
    pub fn new(urls: impl Into<String>) -> Self {
        Self {
            urls: urls.into(),
            user: None,
            password: None,
            token: None,
            ca_file: None,
            timeout: Duration::from_secs(5),
            unknown_wait: Duration::from_secs(10),
            unknown_rest: Duration::from_secs(120),
            unknown_kept: Duration::from_secs(30),
        }
    }
}

/// Without what is secret.
impl fmt::Debug for ConfluentOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { urls, user, password, token, ca_file, timeout, unknown_wait, unknown_rest, unknown_kept } = self;
        let masked = |secret: &Option<String>| secret.as_ref().map(|_| "…");
        f.debug_struct("ConfluentOptions")
            .field("urls", &without_passwords(urls))
            .field("user", user)
            .field("password", &masked(password))
            .field("token", &masked(token))
            .field("ca_file", ca_file)
            .field("timeout", timeout)
            .field("unknown_wait", unknown_wait)
            .field("unknown_rest", unknown_rest)
            .field("unknown_kept", unknown_kept)
            .finish()
    }
}

/// Addresses as they may be shown.
pub(super) fn without_passwords(urls: &str) -> String {
    let shown = urls.split(',').map(|url| match url.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            format!("{scheme}://…@{host}")
        }
        None => url.to_owned(),
    });
    shown.collect::<Vec<_>>().join(",")
}
