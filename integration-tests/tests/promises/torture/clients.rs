//! Those who use the process, or the processes, while they are tortured: writers, readers, and one who watches the status. They know
//! nothing of kills: an address goes, another one comes, and a request without an answer is one whose outcome is unknown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng, SeedableRng};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use views::{Offset, Position};

use super::subject::{Event, Question, TOPICS};

/// How long a client waits for an answer. A process that was stopped where it is does not answer, nor does its address go.
const PATIENCE: Duration = Duration::from_secs(40);

/// A request of events that was acknowledged.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    /// By its place in [`TOPICS`].
    pub topic: usize,
    /// The numbers of its events, in order.
    pub numbers: Vec<i64>,
    /// Where they end, in each partition that has some of them.
    pub position: Position,
}

/// An answer about one key.
#[derive(Debug, Clone)]
pub struct Answer {
    pub question: Question,
    pub rows: Vec<Value>,
    pub position: Position,
}

/// What all clients share.
pub struct Shared {
    /// Where processes answer. Closed when there will be no other.
    addresses: watch::Receiver<Vec<String>>,
    /// Whether the parts behind the processes go away now and then: an answer may say so.
    parts_fail: bool,
    http: reqwest::Client,
    /// Every event there ever was, by its number.
    pub events: Mutex<Vec<Event>>,
    /// Which keys are written now.
    pub era: AtomicU64,
    pub acknowledgements: Mutex<Vec<Acknowledged>>,
    pub answers: Mutex<Vec<Answer>>,
    /// What was rejected, as it was sent: it must be among the dead letters.
    pub rejected: Mutex<Vec<(usize, String)>>,
    /// Everything before this was acknowledged.
    acknowledged: Mutex<Position>,
    /// The highest generation that some answer of a process had.
    generations: Mutex<BTreeMap<String, u64>>,
    /// Requests without an answer.
    pub unanswered: AtomicU64,
    /// Answers that said that they may lag.
    pub degraded: AtomicU64,
    /// Answers that had to reach an acknowledged position, and did.
    pub waited_for: AtomicU64,
}

/// The running clients.
pub struct Clients {
    pub shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Clients {
    /// Three writers (two of them of payments), three readers and a watcher.
    pub fn start(addresses: watch::Receiver<Vec<String>>, seed: u64, parts_fail: bool) -> Self {
        let http = reqwest::Client::builder().timeout(PATIENCE).build().expect("a client");
        let shared = Arc::new(Shared {
            addresses,
            parts_fail,
            http,
            events: Mutex::default(),
            era: AtomicU64::new(0),
            acknowledgements: Mutex::default(),
            answers: Mutex::default(),
            rejected: Mutex::default(),
            acknowledged: Mutex::default(),
            generations: Mutex::default(),
            unanswered: AtomicU64::new(0),
            degraded: AtomicU64::new(0),
            waited_for: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        for (number, topic) in [(0, 0), (1, 0), (2, 1)] {
            tasks.spawn(write(shared.clone(), topic, StdRng::seed_from_u64(seed ^ number)));
        }
        for number in 10..13 {
            tasks.spawn(read(shared.clone(), StdRng::seed_from_u64(seed ^ number)));
        }
        tasks.spawn(watch_status(shared.clone()));
        Self { shared, tasks }
    }

    /// Fails when a client found something wrong.
    pub fn check(&mut self) {
        if let Some(ended) = self.tasks.try_join_next() {
            ended.expect("a client found something wrong");
        }
    }

    /// Waits for the clients, who end with the addresses.
    pub async fn end(mut self) -> Arc<Shared> {
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a client found something wrong");
        }
        self.shared
    }
}

impl Shared {
    /// An address that is not `old`; `None` when there will be none.
    async fn address(&self, old: Option<&str>) -> Option<String> {
        let mut addresses = self.addresses.clone();
        let others = |addresses: &Vec<String>| addresses.iter().any(|address| Some(address.as_str()) != old);
        let found = addresses.wait_for(others).await.ok()?;
        let others = found.iter().filter(|address| Some(address.as_str()) != old);
        others.choose(&mut rand::rng()).cloned()
    }

    /// Sends a request; the answer when there is a whole one.
    async fn ask(&self, request: RequestBuilder) -> Option<(StatusCode, Value)> {
        let answer = async {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status(), answer.json().await?))
        };
        let answer = answer.await.ok();
        if answer.is_none() {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    /// Asks one question. `None` when there is no answer.
    pub async fn lookup(&self, address: &str, question: &Question, reach: Option<&Position>) -> Option<()> {
        let subject = question.subject();
        let mut parameters = question.options();
        parameters.push((subject.key, question.key.clone()));
        parameters.extend(reaching(reach));
        let url = format!("{address}/v1/views/{}", subject.name);
        let floor = self.generation_of(address);
        let (status, answer) = self.ask(self.http.get(url).query(&parameters)).await?;
        self.is_answered(status, &format!("{question:?} {answer}"))?;
        self.take(address, question.clone(), &answer, floor, reach);
        Some(())
    }

    /// Asks about several keys of one view at once.
    pub async fn lookup_many(&self, address: &str, questions: &[Question], reach: Option<&Position>) -> Option<()> {
        let first = questions.first()?;
        let subject = first.subject();
        let keys: Vec<Value> = questions.iter().map(|question| json!({ subject.key: question.key })).collect();
        let mut body = json!({ "keys": keys });
        for (name, value) in first.options().into_iter().chain(reaching(reach)) {
            body[name] = value.into();
        }
        let url = format!("{address}/v1/views/{}/lookup", subject.name);
        let floor = self.generation_of(address);
        let (status, answer) = self.ask(self.http.post(url).json(&body)).await?;
        self.is_answered(status, &format!("{questions:?} {answer}"))?;
        let results = answer["results"].as_array().expect("results");
        assert_eq!(results.len(), questions.len(), "one result each");
        for (question, result) in questions.iter().zip(results) {
            // Each key has an outcome of its own.
            if let Some(status) = result["error"]["status"].as_u64().and_then(|status| u16::try_from(status).ok()) {
                let status = StatusCode::from_u16(status).expect("a status");
                self.is_answered(status, &format!("{question:?} {result}"))?;
            }
            let question = Question { key: question.key.clone(), ..first.clone() };
            self.take(address, question, result, floor, reach);
        }
        Some(())
    }

    fn generation_of(&self, address: &str) -> u64 {
        self.generations.lock().get(address).copied().unwrap_or(0)
    }

    /// Whether a question was answered: where parts fail, a process may say that it cannot, or not in time.
    fn is_answered(&self, status: StatusCode, what: &str) -> Option<()> {
        if self.parts_fail && [StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT].contains(&status) {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        assert_eq!(status, 200, "{what}");
        Some(())
    }

    /// Keeps an answer for the comparison with the log, and checks what can be checked at once.
    fn take(&self, address: &str, question: Question, answer: &Value, floor: u64, reach: Option<&Position>) {
        if answer["degraded"] != Value::Null {
            // Right after a start it may say that it cannot tell how far it lags. What it does tell must be right all the same.
            let reason = answer["degraded"]["reason"].as_str().unwrap_or_default();
            let is_starting = reason.contains("the speed layer does not follow");
            assert!(is_starting || self.parts_fail, "{question:?} {answer}");
            self.degraded.fetch_add(1, Ordering::Relaxed);
        }
        let generation = answer["generation"].as_u64().unwrap_or(0);
        assert!(generation >= floor, "the generation went back from {floor}: {question:?} {answer}");
        let mut generations = self.generations.lock();
        let known = generations.entry(address.to_owned()).or_default();
        *known = generation.max(*known);
        drop(generations);
        let position = answer["position"].as_str().and_then(|token| Position::from_token(token).ok());
        let position = position.unwrap_or_else(|| panic!("no position: {question:?} {answer}"));
        if let Some(reach) = reach {
            let reach = reach.of_topic(TOPICS[question.subject().topic]);
            assert!(position.covers(&reach), "was to reach {reach}, and reaches {position}: {question:?} {answer}");
            self.waited_for.fetch_add(1, Ordering::Relaxed);
        }
        let mut rows = answer["rows"].as_array().cloned().unwrap_or_else(|| panic!("no rows: {question:?} {answer}"));
        for row in &mut rows {
            let layers = row.as_object_mut().and_then(|row| row.remove("layers"));
            assert_eq!(layers.is_some(), question.explain, "{question:?} {answer}");
            let of_batch = layers.as_ref().and_then(|layers| layers["batch"]["generation"].as_u64());
            assert!(of_batch.is_none_or(|number| number == generation), "{question:?} {answer}");
        }
        self.answers.lock().push(Answer { question, rows, position });
    }

    /// Everything before this was acknowledged.
    pub fn acknowledged(&self) -> Position {
        self.acknowledged.lock().clone()
    }
}

fn reaching(reach: Option<&Position>) -> Vec<(&'static str, String)> {
    reach.map_or(Vec::new(), |reach| vec![("min_position", reach.token()), ("timeout", "30s".to_owned())])
}

/// How a client passes the time between two requests: this makes the load, nothing waits for it.
async fn pause(random: &mut StdRng, most_ms: u64) {
    tokio::time::sleep(Duration::from_millis(random.random_range(0..most_ms))).await;
}

/// Sends events. Where they are recognised when they come again, what was not acknowledged is sent again, and now and then
/// what was.
async fn write(shared: Arc<Shared>, topic: usize, mut random: StdRng) {
    let recognised = topic == 0;
    loop {
        let Some(url) = shared.address(None).await else { return };
        let count = if random.random_bool(0.03) { 60 } else { random.random_range(1..=8) };
        let era = shared.era.load(Ordering::Relaxed);
        let mut body = Vec::new();
        let mut numbers = Vec::new();
        for _ in 0..count {
            let mut events = shared.events.lock();
            let event = Event::random(&mut random, events.len() as i64, era);
            body.push(event.json());
            numbers.push(event.n);
            events.push(event);
        }
        let broken = random.random_bool(0.04).then(|| {
            let broken = json!({ "n": "no number", "id": format!("broken before {}", numbers[0]) });
            let at = random.random_range(0..=body.len());
            body.insert(at, broken.clone());
            (at, broken.to_string())
        });
        let body = Value::from(body);
        let mut address = Some(url);
        loop {
            let Some(url) = &address else { return };
            let acknowledged = send(&shared, url, topic, &body, &numbers, broken.as_ref()).await;
            let again = recognised && (!acknowledged || random.random_bool(0.03));
            if !acknowledged {
                // The process is gone, or is going: by the next one's address there is a new one.
                address = shared.address(Some(url)).await;
            }
            if !again {
                break;
            }
        }
        pause(&mut random, 40).await;
    }
}

/// Sends one request of events. Whether it was acknowledged.
async fn send(
    shared: &Shared,
    address: &str,
    topic: usize,
    body: &Value,
    numbers: &[i64],
    broken: Option<&(usize, String)>,
) -> bool {
    let url = format!("{address}/v1/topics/{}/events", TOPICS[topic]);
    let answer = shared.ask(shared.http.post(url).json(body)).await;
    let Some((status, answer)) = answer else { return false };
    if status == StatusCode::SERVICE_UNAVAILABLE {
        shared.unanswered.fetch_add(1, Ordering::Relaxed);
        return false;
    }
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["accepted"], numbers.len(), "{answer}");
    let rejected: Vec<u64> =
        answer["rejected"].as_array().into_iter().flatten().filter_map(|rejected| rejected["index"].as_u64()).collect();
    assert_eq!(rejected, broken.iter().map(|(at, _)| *at as u64).collect::<Vec<_>>(), "{answer}");
    if let Some((_, original)) = broken {
        shared.rejected.lock().push((topic, original.clone()));
    }
    let position = answer["position"].as_str().and_then(|token| Position::from_token(token).ok());
    let position = position.unwrap_or_else(|| panic!("no position: {answer}"));
    {
        let mut all = shared.acknowledged.lock();
        for (partition, offset) in position.iter() {
            all.advance(&partition, offset);
        }
    }
    shared.acknowledgements.lock().push(Acknowledged { topic, numbers: numbers.to_vec(), position });
    true
}

/// Asks all the time.
async fn read(shared: Arc<Shared>, mut random: StdRng) {
    let mut old: Option<String> = None;
    loop {
        let Some(address) = shared.address(old.as_deref()).await else { return };
        let era = shared.era.load(Ordering::Relaxed);
        let question = Question::random(&mut random, era);
        // Read your writes: what was acknowledged a moment ago.
        let reach = random.random_bool(0.2).then(|| shared.acknowledged());
        let answered = if random.random_bool(0.1) {
            let mut questions = vec![question];
            for _ in 0..random.random_range(0..3) {
                let key = Question::random_key_of(&mut random, questions[0].subject, era);
                questions.push(Question { key, ..questions[0].clone() });
            }
            shared.lookup_many(&address, &questions, reach.as_ref()).await
        } else {
            shared.lookup(&address, &question, reach.as_ref()).await
        };
        old = answered.is_none().then_some(address);
        pause(&mut random, 80).await;
    }
}

/// Looks at the status all the time: what must never go back.
async fn watch_status(shared: Arc<Shared>) {
    let mut highest: BTreeMap<String, Offset> = BTreeMap::new();
    let mut of: Option<String> = None;
    let mut old: Option<String> = None;
    loop {
        let Some(address) = shared.address(old.as_deref()).await else { return };
        let answer = shared.ask(shared.http.get(format!("{address}/v1/status"))).await;
        old = answer.is_none().then(|| address.clone());
        let answer = answer.filter(|(status, answer)| shared.is_answered(*status, &answer.to_string()).is_some());
        if shared.parts_fail && of.as_ref() != Some(&address) {
            // What one process knows another may not know yet.
            highest.clear();
            of = Some(address);
        }
        if let Some((_, answer)) = answer {
            let mut now = vec![("generation".to_owned(), answer["generation"].as_u64())];
            for topic in TOPICS {
                for (number, partition) in
                    answer["topics"][topic]["partitions"].as_array().into_iter().flatten().enumerate()
                {
                    for what in ["frontier", "end", "start"] {
                        now.push((format!("{what} of {topic}/{number}"), partition[what].as_u64()));
                    }
                }
            }
            for (what, value) in now {
                let highest = highest.entry(what.clone()).or_default();
                let value = value.unwrap_or(0);
                assert!(value >= *highest, "{what} went back from {highest} to {value}: {answer}");
                *highest = value;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
