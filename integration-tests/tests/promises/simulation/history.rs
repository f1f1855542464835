//! One history: what is done, and what must be true all along and in the end.

use std::sync::Arc;
use std::time::Duration;

use batch_layer::{BatchError, NoProgress, Outcome, RunReport};
use event_log::dead_letter::{DeadLetter, Origin};
use event_log::{Content, ReadLimit};
use integration_tests::events::schema;
use integration_tests::parts::Parts;
use integration_tests::world::{Faults, World, compile, dies_after, random_events, within};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use views::{Application, Offset, TopicPartition};

/// Tiles, sets, order, floats, `HAVING`: one view of each way to merge.
const VIEWS: &str = "
CREATE MATERIALIZED VIEW pages WITH (key = 'url') AS
  SELECT url, date_bin(INTERVAL '1 minute', ts) AS minute, count(*) AS events, sum(price) AS price,
         approx_distinct(user) AS users, max(_offset) AS latest
  FROM events WHERE status < 500 GROUP BY url, minute;
CREATE MATERIALIZED VIEW users AS
  SELECT user, count(*) AS events, avg(ratio) AS mean, last_value(url ORDER BY ts) AS last_url,
         array_agg(status ORDER BY ts) AS statuses
  FROM events GROUP BY user HAVING count(*) > 1;
";

/// The second version of the application: a field more, one view changed, one new.
const CHANGED: &str = "
CREATE MATERIALIZED VIEW users AS
  SELECT user, count(*) AS events, max(region) AS region FROM events GROUP BY user;
CREATE MATERIALIZED VIEW kinds AS
  SELECT kind, ok, count(*) AS events, min(ts) AS first FROM events GROUP BY kind, ok;
";

fn application(random: &mut StdRng) -> [Application; 2] {
    let (partitions, segment_records) = (random.random_range(1..=3), random.random_range(4..=40));
    let key = if random.random_bool(0.5) { ", key = 'user'" } else { "" };
    let dedupe = if random.random_bool(0.6) { ", event_id = 'id', dedupe_window = '20 seconds'" } else { "" };
    let source = format!(
        "CREATE SOURCE events WITH (schema = 'event.avsc', event_time = 'ts', partitions = {partitions},
           segment_records = {segment_records}, retention = '30 seconds'{key}{dedupe});"
    );
    let pages = VIEWS.split_inclusive(';').next().unwrap_or_default();
    [
        compile(&[("event.avsc", schema(1)), ("views.sql", format!("{source}{VIEWS}"))]),
        compile(&[("event.avsc", schema(2)), ("views.sql", format!("{source}{pages}{CHANGED}"))]),
    ]
}

/// What was done, for whoever reads a failure.
pub type Did = Mutex<Vec<String>>;

/// A history under way.
pub struct History<'a> {
    world: World,
    seed: u64,
    /// What decides the action at hand. Each has its own, so that how one ends does not change which comes next.
    random: StdRng,
    applications: [Arc<Application>; 2],
    /// Which version of the application runs.
    version: u32,
    /// The newest schema that producers know.
    written: u32,
    partitions: u32,
    faults: Faults,
    injected: u64,
    did: &'a Did,
}

impl<'a> History<'a> {
    /// Starts a process on new parts.
    pub async fn begin(parts: Arc<dyn Parts>, seed: u64, did: &'a Did) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let [first, next] = application(&mut random);
        let partitions = first.sources[0].partitions;
        // Some histories are calm: there the order of things is what is tried.
        let faults = if random.random_bool(0.8) { Faults::one_in(random.random_range(8..40)) } else { Faults::none() };
        did.lock().push(format!("{faults:?}\n{}", first.sources[0].statement));
        let mut world = World::new(parts, first);
        world.start(faults, seed).await;
        let applications = [world.application.clone(), Arc::new(next)];
        Self { world, seed, random, applications, version: 1, written: 1, partitions, faults, injected: 0, did }
    }

    fn note(&self, what: impl Into<String>) {
        self.did.lock().push(what.into());
    }

    /// How many actions it has.
    pub fn actions(&mut self) -> u64 {
        self.random.random_range(8..=24)
    }

    /// Does something.
    pub async fn act(&mut self, number: u64) {
        self.random = StdRng::seed_from_u64(self.seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        match self.random.random_range(0..44) {
            0..=11 => self.append().await,
            12 => self.append_garbage().await,
            13 => self.mark_some().await,
            14..=15 => self.batch_run().await,
            16..=19 => self.batch_run_meanwhile().await,
            20..=22 => self.dying_batch_run().await,
            23..=24 => self.racing_batch_runs().await,
            25..=26 => self.speed_restarts().await,
            27..=30 => self.second_owner().await,
            31..=33 => self.process_ends().await,
            34 => self.killed_in_a_batch_run().await,
            35..=36 => self.states_are_lost().await,
            37 => self.world.trim("events").await,
            38 => self.more_partitions().await,
            _ => self.check().await,
        }
        self.world.watch_published().await;
    }

    async fn append(&mut self) {
        let spare = self.random.random_range(0..8);
        let written = self.random.random_range(1..=self.written);
        let events = random_events(&mut self.random, written, 20);
        let delivered = self.world.append("events", spare, written, &events).await;
        // Seldom so long that the index of seen ids begins anew.
        let pass = if self.random.random_bool(0.05) { 1_200_000 } else { self.random.random_range(0..8_000) };
        if let Some(clock) = self.world.parts.clock() {
            clock.advance(Duration::from_millis(pass));
        }
        for (partition, records, mut outcome) in delivered {
            self.note(format!("append {} records to {partition}: {outcome:?}", records.len()));
            // A client that got no acknowledgement tries again, until it loses patience.
            while outcome.is_err() && self.random.random_bool(0.8) {
                outcome = self.world.deliver(&partition, &records).await;
                self.note(format!("again: {outcome:?}"));
            }
        }
    }

    /// A producer that does not know the schema.
    async fn append_garbage(&mut self) {
        let partition = self.some_partition();
        let value = vec![0, 0, 0, 0, 1, 200, 1, self.random.random()];
        let outcome = self.world.deliver(&partition, &[Content::Event { key: None, value: value.into() }]).await;
        self.note(format!("garbage in {partition}: {outcome:?}"));
    }

    /// What a batch run that died early leaves: its marker in the first partitions.
    async fn mark_some(&mut self) {
        let log = self.world.running().whole_log.clone();
        self.world.truth.read_on(log.as_ref(), "events").await;
        let number = self.world.truth.highest_marker() + self.random.random_range(1..=2);
        let reached = self.random.random_range(1..=self.partitions);
        self.note(format!("marker {number} in {reached} of {} partitions", self.partitions));
        for partition in 0..reached {
            let marked = log.append(&TopicPartition::new("events", partition), vec![Content::Marker(number)]).await;
            marked.expect("no faults here");
        }
    }

    async fn batch_run(&mut self) {
        let (layer, full) = (self.random.random_range(0..2), self.random.random_bool(0.2));
        let report = self.world.batch_run(layer, full).await;
        self.note(format!("batch run: {}", outcome(&report)));
    }

    /// Events come and answers are asked for while the batch layer marks, seals, recomputes, publishes and retires. The run
    /// may be given up anywhere.
    async fn batch_run_meanwhile(&mut self) {
        let layer = self.world.running().batch[self.random.random_range(0..2)].clone();
        let full = self.random.random_bool(0.5);
        let most = self.random.random_range(2..12);
        let gives_up = self.random.random_bool(0.3);
        self.note(format!("batch run, and meanwhile (it is given up after: {gives_up}):"));
        let run = tokio::spawn(async move { layer.run(full, &NoProgress).await });
        for _ in 0..most {
            if run.is_finished() {
                break;
            }
            match self.random.random_range(0..3) {
                0 => self.append().await,
                1 => self.check().await,
                _ => self.world.watch_published().await,
            }
        }
        if gives_up {
            run.abort();
        }
        let stands = || self.world.running().archiver.progress();
        match within("a batch run to end", run, stands).await {
            Ok(report) => self.note(format!("batch run ended: {}", outcome(&report))),
            Err(error) if error.is_cancelled() => self.note("batch run given up"),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    async fn dying_batch_run(&mut self) {
        let polls = self.random.random_range(1..120);
        let died = dies_after(polls, self.world.batch_run(0, true)).await;
        self.note(format!("batch run that dies at await {polls}: {:?}", died.as_ref().map(outcome)));
    }

    async fn racing_batch_runs(&mut self) {
        let polls = self.random.random_range(20..400);
        let (one, two) = tokio::join!(self.world.batch_run(0, true), dies_after(polls, self.world.batch_run(1, true)));
        self.note(format!("two batch runs: {}, {:?}", outcome(&one), two.as_ref().map(outcome)));
    }

    async fn speed_restarts(&mut self) {
        let gracefully = self.random.random_bool(0.5);
        self.note(format!("the speed layer restarts, gracefully: {gracefully}"));
        self.world.end_speed(0, gracefully).await;
        self.world.start_speed(0).await;
    }

    /// A second owner of all partitions comes, falls asleep in the middle of his work, wakes, goes.
    async fn second_owner(&mut self) {
        if !self.world.has_speed(1) {
            self.note("a second owner comes");
            self.world.start_speed(1).await;
            return;
        }
        match self.random.random_range(0..5) {
            0..=1 => {
                self.note("the second owner sleeps");
                self.world.sleep(1, true);
            }
            2..=3 => {
                self.note("the second owner wakes");
                self.world.sleep(1, false);
            }
            _ => {
                self.note("the second owner goes");
                let gracefully = self.random.random_bool(0.5);
                self.world.end_speed(1, gracefully).await;
            }
        }
    }

    async fn process_ends(&mut self) {
        self.injected += self.world.injected();
        if self.random.random_bool(0.6) {
            self.note("the process is killed");
            self.world.kill();
        } else {
            self.note("the process stops");
            self.world.stop().await;
        }
        if self.random.random_bool(0.3) {
            self.version = 3 - self.version;
            self.written = 2;
            self.note(format!("the application changes to version {}", self.version));
            self.world.application = self.applications[self.version as usize - 1].clone();
        }
        self.start().await;
    }

    async fn killed_in_a_batch_run(&mut self) {
        let polls = self.random.random_range(1..150);
        let died = dies_after(polls, self.world.batch_run(0, true)).await;
        self.note(format!("the process is killed at await {polls} of a batch run: {:?}", died.as_ref().map(outcome)));
        self.injected += self.world.injected();
        self.world.kill();
        self.start().await;
    }

    async fn states_are_lost(&mut self) {
        self.injected += self.world.injected();
        if self.random.random_bool(0.7) {
            self.note("the process is killed and its views are lost");
            self.world.kill();
            self.world.lose_states().await;
        } else {
            self.note("the process stops and the ids that it has seen are lost");
            self.world.stop().await;
            self.world.lose_seen_ids();
        }
        self.start().await;
    }

    async fn start(&mut self) {
        let seed = self.random.random();
        self.world.start(self.faults, seed).await;
    }

    async fn more_partitions(&mut self) {
        if self.partitions < 5 {
            self.partitions += 1;
            self.note(format!("{} partitions", self.partitions));
            self.world.add_partitions("events", self.partitions).await;
        }
    }

    async fn check(&mut self) {
        let view = self.world.application.views.iter().choose(&mut self.random).expect("a view").clone();
        let seen = self.world.check(&view).await.unwrap_or_else(|difference| panic!("{difference}"));
        self.note(format!("{} is exact at {}", view.name, seen.position));
    }

    fn some_partition(&mut self) -> TopicPartition {
        TopicPartition::new("events", self.random.random_range(0..self.partitions))
    }

    /// Everything heals: now every promise must be kept to the end. Returns how many faults there were.
    pub async fn end(mut self) -> u64 {
        let injected = self.injected + self.world.injected();
        self.note("heal, settle");
        self.world.heal();
        self.world.end_speed(1, true).await;
        self.world.settle().await;
        self.check_all().await;
        self.note("a full batch run");
        let report = self.world.batch_run(0, true).await.expect("nothing goes wrong any more");
        assert_eq!(report.outcome, Outcome::Published);
        assert!(report.views.values().all(|view| view.error.is_none()), "{report:?}");
        self.world.settle().await;
        self.check_all().await;
        let before = self.world.visible.clone();
        self.note("a batch run without anything new");
        let report = self.world.batch_run(1, false).await.expect("nothing goes wrong any more");
        assert_eq!(report.outcome, Outcome::NothingNew);
        self.check_all().await;
        assert_eq!(self.world.visible, before);
        let log = self.world.running().whole_log.clone();
        self.world.truth.read_again(log.as_ref()).await;
        drop(log);
        self.check_dead_letters().await;
        self.note("restart");
        self.world.stop().await;
        self.start().await;
        self.world.heal();
        self.world.settle().await;
        self.check_all().await;
        assert_eq!(self.world.visible, before);
        self.world.stop().await;
        injected
    }

    async fn check_all(&mut self) {
        for view in self.world.application.views.clone() {
            let seen = self.world.check(&view).await.unwrap_or_else(|difference| panic!("{difference}"));
            let end = self.world.truth.end();
            assert!(seen.position.covers(&end), "{} at {} of {end}", view.name, seen.position);
        }
    }

    /// Every record that is no event is among the dead letters, with its own bytes.
    async fn check_dead_letters(&self) {
        let log = &self.world.running().plain.log;
        let letters = TopicPartition::new("events.dead-letters", 0);
        let records = log.read(&letters, 0, ReadLimit::records(100_000)).await.expect("the dead letters");
        let mut places: Vec<(u32, Offset)> = Vec::new();
        for record in records {
            let Content::Event { value, .. } = record.content else { continue };
            let letter = DeadLetter::read(&value).expect("a dead letter");
            let Origin::Log { partition, offset } = letter.origin else { continue };
            places.push((partition, offset));
        }
        for place in self.world.truth.undecodable() {
            assert!(places.contains(&place), "{place:?} is not among the dead letters: {places:?}");
        }
    }
}

/// How a batch run ended, in a line.
fn outcome(run: &Result<RunReport, BatchError>) -> String {
    match run {
        Ok(report) => format!("{} {:?} at {}", report.generation, report.outcome, report.frontier),
        Err(error) => error.to_string(),
    }
}
