//! A small HTTP/1.1 client on kept-alive connections: the same for everything that is compared, and cheap enough to
//! leave the machine to the servers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// One connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A response.
#[derive(Debug)]
pub struct Response<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: &'a [u8],
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        Self { stream, buffer: vec![0; 64 << 10] }
    }

    /// Sends a whole request and reads the response.
    pub async fn ask(&mut self, request: &[u8]) -> io::Result<Response<'_>> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        let (body, length, status) = loop {
            filled += self.read(filled).await?;
            if let Some(end) = find(&self.buffer[..filled], b"\r\n\r\n") {
                let head = std::str::from_utf8(&self.buffer[..end]).map_err(io::Error::other)?;
                let status = head.get(9..12).and_then(|status| status.parse().ok());
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
                });
                let (Some(status), Some(length)) = (status, length) else {
                    return Err(io::Error::other(format!("no status or no content-length in {head:?}")));
                };
                break (end + 4, length, status);
            }
        };
        while filled < body + length {
            filled += self.read(filled).await?;
        }
        Ok(Response { status, body: &self.buffer[body..body + length] })
    }

    /// The same, when it must work.
    pub async fn must(&mut self, request: &[u8]) -> &[u8] {
        let response = self.ask(request).await.expect("a response");
        assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(response.body));
        response.body
    }

    async fn read(&mut self, at: usize) -> io::Result<usize> {
        if at == self.buffer.len() {
            self.buffer.resize(at * 2, 0);
        }
        match self.stream.read(&mut self.buffer[at..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// A GET request.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\naccept: application/json\r\n\r\n").into_bytes()
}

/// A POST request.
pub fn post(path: &str, media_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\n\r\n"
    );
    let mut request = head.into_bytes();
    request.extend_from_slice(body);
    request
}

/// A POST of events to the clicks.
pub fn post_clicks(lines: &[u8]) -> Vec<u8> {
    post("/v1/topics/clicks/events", "application/x-ndjson", lines)
}

/// The address in `http://ADDRESS`.
pub fn address(url: &str) -> SocketAddr {
    url.trim_start_matches("http://").parse().expect("an address")
}

/// Asks in turn as fast as the answers come, on so many connections, for so long: answers per second.
pub async fn closed_loop(to: SocketAddr, requests: &Arc<Vec<Vec<u8>>>, connections: usize, time: Duration) -> f64 {
    let next = Arc::new(AtomicUsize::new(0));
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(to).await);
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for mut connection in open {
        let (requests, next) = (requests.clone(), next.clone());
        tasks.spawn(async move {
            let mut answers = 0_u64;
            while started.elapsed() < time {
                let index = next.fetch_add(1, Ordering::Relaxed) % requests.len();
                connection.must(&requests[index]).await;
                answers += 1;
            }
            answers
        });
    }
    let answers: u64 = tasks.join_all().await.into_iter().sum();
    answers as f64 / started.elapsed().as_secs_f64()
}

/// Asks at a steady rate, whether answers come or not: the milliseconds each one took. A question that finds its
/// connection busy counts from the moment at which it should have been asked.
pub async fn open_loop(
    to: SocketAddr,
    requests: &Arc<Vec<Vec<u8>>>,
    connections: usize,
    rate: f64,
    time: Duration,
) -> Vec<f64> {
    let mut tasks = JoinSet::new();
    let started = tokio::time::Instant::now() + Duration::from_millis(50);
    for number in 0..connections {
        let requests = requests.clone();
        tasks.spawn(async move {
            let mut connection = Connection::open(to).await;
            let mut took = Vec::new();
            for turn in 0.. {
                let index = turn * connections + number;
                let due = started + Duration::from_secs_f64(index as f64 / rate);
                if due - started >= time {
                    break;
                }
                let is_late = tokio::time::Instant::now() > due;
                if !is_late {
                    tokio::time::sleep_until(due).await;
                }
                let from = if is_late { due } else { tokio::time::Instant::now() };
                connection.must(&requests[index % requests.len()]).await;
                took.push(crate::measure::millis(from.elapsed()));
            }
            took
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}
