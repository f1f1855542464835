//! A gate in front of the real registry: it can be shut, fall silent, hide what was just written, and ask who is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::http;

/// What the gate does with requests.
#[derive(Debug, Clone, Default)]
pub enum Mode {
    /// Passes them on.
    #[default]
    Open,
    /// Hangs up.
    Shut,
    /// Takes them and never answers.
    Silent,
    /// Answers with this status and text.
    Says(u16, &'static str),
    /// Sends whoever asks on to there.
    SendsOn(&'static str),
}

#[derive(Default)]
struct State {
    mode: Mode,
    /// Paths that are told to be unknown so many times more.
    hidden: BTreeMap<String, usize>,
    /// Only this header is let in.
    authorization: Option<String>,
    /// The method and path of every request.
    seen: Vec<String>,
}

/// A gate. Dropping it closes it.
pub struct Gate {
    pub url: String,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Gate {
    pub async fn before(registry: &str) -> Self {
        Self::open(registry, None).await
    }

    /// One that speaks TLS, as `localhost` and with a certificate of its own, which is returned.
    pub async fn with_tls(registry: &str) -> (Self, String) {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let tls = tls.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let tls = tls.with_single_cert(vec![own.cert.der().clone()], key).unwrap();
        (Self::open(registry, Some(TlsAcceptor::from(Arc::new(tls)))).await, own.cert.pem())
    }

    async fn open(registry: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = if tls.is_some() { format!("https://localhost:{port}") } else { format!("http://127.0.0.1:{port}") };
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, registry, client) = (state.clone(), registry.to_owned(), http());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, registry, client, tls) = (shared.clone(), registry.clone(), client.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, shared, registry, client).await,
                        Some(tls) => {
                            // Whoever does not trust it hangs up.
                            let Ok(stream) = tls.accept(stream).await else { return };
                            serve(stream, shared, registry, client).await;
                        }
                    }
                });
            }
        });
        Self { url, state, task }
    }

    pub fn set(&self, mode: Mode) {
        self.state.lock().mode = mode;
    }

    /// Hides a path for the next `times` requests.
    pub fn hide(&self, path: &str, times: usize) {
        self.state.lock().hidden.insert(path.to_owned(), times);
    }

    pub fn admit_only(&self, authorization: &str) {
        self.state.lock().authorization = Some(authorization.to_owned());
    }

    /// How many requests have asked for a path.
    pub fn asked(&self, path: &str) -> usize {
        self.state.lock().seen.iter().filter(|seen| seen.split(' ').nth(1) == Some(path)).count()
    }

    pub fn requests(&self) -> usize {
        self.state.lock().seen.len()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves the one request of a connection.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    state: Arc<Mutex<State>>,
    registry: String,
    client: reqwest::Client,
) {
    let mut bytes = Vec::new();
    let head = loop {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break String::from_utf8(bytes.drain(..end + 4).collect()).unwrap();
        }
    };
    let header = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(it, _)| it.eq_ignore_ascii_case(name))
            .map(|it| it.1)
    };
    let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
    while bytes.len() < length {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let path = target.split('?').next().unwrap().to_owned();
    let mode = {
        let mut state = state.lock();
        state.seen.push(format!("{method} {path}"));
        let hidden = state.hidden.get_mut(&path).filter(|times| **times > 0);
        if let Some(times) = hidden {
            *times -= 1;
            Mode::Says(404, r#"{"error_code":40403,"message":"Schema not found"}"#)
        } else if state.authorization.as_deref().is_some_and(|it| Some(it) != header("authorization")) {
            Mode::Says(401, r#"{"error_code":401,"message":"Unauthorized"}"#)
        } else {
            state.mode.clone()
        }
    };
    let (status, text) = match mode {
        Mode::Shut => return,
        Mode::Silent => return std::future::pending().await,
        Mode::Says(status, text) => (status, text.to_owned()),
        Mode::SendsOn(to) => {
            let answer =
                format!("HTTP/1.1 307 Elsewhere\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
            return;
        }
        Mode::Open => {
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            let request = client.request(method, format!("{registry}{target}")).body(bytes);
            let request = request.header("content-type", "application/vnd.schemaregistry.v1+json");
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        }
    };
    let length = text.len();
    let answer = format!(
        "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
    );
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}
