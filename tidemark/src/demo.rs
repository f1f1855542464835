//! `tidemark demo`: the same process as `tidemark run`, with somebody who posts made-up clicks to it over HTTP as any producer
//! would, and a batch run every 20 seconds, so that both layers are to be seen.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::application::Folder;
use crate::client::{Client, Delivery};
use crate::command_line::print;
use crate::failure::{Failure, Result};
use crate::generator::{Clicks, Traffic};
use crate::input::Format;
use crate::load::Load;
use crate::role::Role;
use crate::run::{Running, Signals};
use crate::settings::Settings;
use crate::units::Schedule;

/// The topic that the clicks go to.
const TOPIC: &str = "clicks";

/// How often clicks are posted.
const TICK: Duration = Duration::from_millis(100);

/// How often there is a batch run.
const BATCH_EVERY: Duration = Duration::from_secs(20);

/// How long to wait before posting again after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// A demo.
#[derive(Debug, Clone)]
pub struct Demo {
    /// An access log to load first.
    pub log: Option<PathBuf>,
    /// How many clicks a second.
    pub rate: u32,
    /// What the clicks are made from; `None`: from the time of day.
    pub seed: Option<u64>,
}

impl Demo {
    /// Runs until SIGTERM or ^C.
    ///
    /// # Errors
    ///
    /// What keeps the process from starting, or the access log from being read.
    pub async fn run(self, folder: &Folder, mut settings: Settings) -> Result {
        settings.batch.every = Schedule::Every(BATCH_EVERY);
        if folder.compile()?.source(TOPIC).is_none() {
            return Err(Failure::usage(format!(
                "{}: the demo feeds a source `{TOPIC}`, and there is none",
                folder.name
            )));
        }
        let signals = Signals::listen()?;
        let running = Running::start(folder, settings, Role::Everything).await?;
        let url = running.url();
        print(running.ready_line());
        let client = Client::new(&url);
        let feeding = async {
            if let Some(log) = &self.log {
                load(&client, log).await?;
            }
            let seed = self.seed.unwrap_or_else(|| u64::try_from(now_us()).unwrap_or(0));
            print(introduction(&url, self.rate, seed));
            feed(&client, self.rate, seed).await;
            Ok(())
        };
        let outcome = tokio::select! {
            () = signals.first() => Ok(()),
            Err(failure) = feeding => Err(failure),
        };
        running.stop().await;
        outcome
    }
}

async fn load(client: &Client, log: &std::path::Path) -> Result {
    let load = Load {
        topic: TOPIC.to_owned(),
        files: vec![log.to_owned()],
        format: Some(Format::Combined),
        delimiter: None,
        skip: 0,
        batch: 4000,
        in_flight: 1,
        app: None,
    };
    let loaded = load.run(client).await?;
    print(format!("{}: accepted {}, rejected {}\n", log.display(), loaded.accepted, loaded.rejected));
    for rejected in &loaded.shown {
        print(format!("  {rejected}\n"));
    }
    Ok(())
}

/// Posts clicks for ever, as many as are due each tick, with the times of that tick.
async fn feed(client: &Client, rate: u32, seed: u64) {
    if rate == 0 {
        return std::future::pending().await;
    }
    let step_us = 1_000_000 / i64::from(rate).max(1);
    let mut clicks = Clicks::with(Traffic { seed, step_us, start_us: now_us(), ..Traffic::default() });
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let began = Instant::now();
    let mut made = 0_u64;
    loop {
        ticks.tick().await;
        let due = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_mul(u64::from(rate)) / 1000;
        // After a pause (a suspended machine), go on from now and do not make up for it.
        let due = due.min(made.saturating_add(u64::from(rate)));
        let now = now_us();
        let count = due.saturating_sub(made);
        if count == 0 {
            continue;
        }
        clicks.set_clock(now - step_us * i64::try_from(count).unwrap_or(0));
        let mut body = Vec::new();
        for _ in 0..count {
            clicks.write(&mut body);
            body.push(b'\n');
        }
        made = due;
        match client.deliver(TOPIC, "application/x-ndjson", body.into()).await {
            Ok(Delivery { accepted, rejected }) => {
                tracing::debug!(accepted, rejected = rejected.len(), "clicks");
            }
            // These clicks may be lost: visitors do not click again for our sake.
            Err(error) => {
                tracing::warn!(%error, "clicks were not taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn now_us() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

fn introduction(url: &str, rate: u32, seed: u64) -> String {
    let server = if url.ends_with(":8080") { String::new() } else { format!(" --server {url}") };
    let traffic = match rate {
        0 => "no made-up clicks".to_owned(),
        rate => format!("{rate} made-up clicks a second (--seed {seed}), one in a thousand of them broken"),
    };
    format!(
        "
{traffic}; a batch run every {} seconds. ^C stops.

  look     {url}/
  ask      tidemark query page_views url=/cart --last 10m{server}
           tidemark query page_views url=/cart --rollup --explain{server}
           tidemark query user_activity user_id=user-1{server}
           tidemark query referrers site=www.google.com{server}
           tidemark query status_codes status=404 --rollup{server}
           curl '{url}/v1/views/page_views?url=/cart&last=10m'
  check    tidemark verify{server}
  broken   curl {url}/v1/topics/{TOPIC}/dead-letters

",
        BATCH_EVERY.as_secs()
    )
}
