//! Hundreds of histories: everything that can go wrong goes wrong, in an order that a seed decides, and in the end every
//! answer is exact all the same.
//!
//! A history draws actions: appends whose acknowledgement may be lost and that are delivered again or not, batch runs that fail,
//! die at some await or race each other, layers and processes that stop or die, second owners of the same partitions who
//! fall asleep, views that are thrown away or defined anew, records that the log lets go of. Every port has faults meanwhile.
//! Answers are compared with the oracle all along, each at the position that it names.
//!
//! The seed decides what is done and which call fails; how the threads take turns is the machine's. A failure that the same
//! seed does not show at once shows when it is run some times more.

mod history;

use std::any::Any;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures::{FutureExt as _, StreamExt as _};
use integration_tests::parts::{EmbeddedParts, PATIENCE, Parts};
use integration_tests::sabotage::{Sabotage, SabotagedParts};
use integration_tests::world::{number, seed};
use parking_lot::Mutex;

use history::{Did, History};

/// How many histories run at once.
const AT_ONCE: usize = 3;

/// After this many failures no more histories are begun.
const ENOUGH: u64 = 3;

async fn history(parts: Arc<dyn Parts>, seed: u64, did: &Did) -> Result<u64, Box<dyn Any + Send>> {
    let all = async {
        let mut history = History::begin(parts, seed, did).await;
        for number in 0..history.actions() {
            history.act(number).await;
        }
        history.end().await
    };
    AssertUnwindSafe(all).catch_unwind().await
}

/// Says something at once, whoever collects the output of tests.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// The seeds of the histories that run: something that ends the whole process at once should leave a trace of them.
static RUNNING: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// Held by the test that runs: what one says must not look like the other's.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn say_what_runs_when_something_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let running = RUNNING.lock().clone();
        if !running.is_empty() {
            say(&format!("simulation: {panic}\nwhile the histories of these seeds ran: {running:?}"));
        }
        before(panic);
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simulation_of_many_histories() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (seed, histories) = (seed(), number("TIDEMARK_HISTORIES", 200));
    say(&format!("simulation: {histories} histories from seed {seed}"));
    say_what_runs_when_something_panics();
    let (began, injected, failed) = (Instant::now(), AtomicU64::new(0), AtomicU64::new(0));
    let failed = &failed;
    let runs = (0..histories).map(|number| async move {
        let seed = seed.wrapping_add(number);
        if failed.load(Ordering::Relaxed) >= ENOUGH {
            return Ok(0);
        }
        RUNNING.lock().insert(seed);
        let run = tokio::spawn(async move {
            let did = Did::default();
            let run = history(Arc::new(EmbeddedParts::new()), seed, &did).await;
            run.map_err(|panic| (seed, message(panic.as_ref()), did.into_inner()))
        });
        let run = run.await.expect("a history ends");
        RUNNING.lock().remove(&seed);
        run
    });
    let mut runs = futures::stream::iter(runs).buffer_unordered(AT_ONCE);
    let mut done = 0;
    while let Some(run) = runs.next().await {
        match run {
            Ok(faults) => injected.fetch_add(faults, Ordering::Relaxed),
            Err((seed, panic, did)) => {
                let did = did.join("\n");
                say(&format!("simulation: TIDEMARK_SEED={seed} TIDEMARK_HISTORIES=1 repeats this:\n{did}\n{panic}"));
                failed.fetch_add(1, Ordering::Relaxed)
            }
        };
        done += 1;
        if done % (histories / 10).max(1) == 0 {
            let (faults, seconds) = (injected.load(Ordering::Relaxed), began.elapsed().as_secs());
            say(&format!("simulation: {done} of {histories} histories, {faults} faults, {seconds} s"));
        }
    }
    let (failed, injected) = (failed.load(Ordering::Relaxed), injected.into_inner());
    assert_eq!(failed, 0, "histories failed: what they did stands above");
    assert!(
        histories < 10 || injected > histories * 5,
        "{injected} faults: a simulation without faults proves nothing"
    );
}

/// The simulation itself is tried: parts that break one promise each must be noticed, and soon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simulation_notices_broken_promises() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (first, most) = (seed(), number("TIDEMARK_SABOTAGES", 200));
    say(&format!("sabotage: every panic from here on is wanted (from seed {first})"));
    for how in Sabotage::ALL {
        let mut noticed = None;
        for seed in (0..most).map(|number| first.wrapping_add(number)) {
            let run = tokio::spawn(async move {
                let did = Did::default();
                let history = history(Arc::new(SabotagedParts::new(how)), seed, &did);
                // One that never comes to its end is noticed too.
                let run = tokio::time::timeout(PATIENCE / 8, history).await;
                match run {
                    Ok(Ok(_)) => None,
                    Ok(Err(panic)) => Some(message(panic.as_ref())),
                    Err(_) => Some(format!("it does not end; the last it did: {:?}", did.lock().last())),
                }
            });
            noticed = run.await.expect("a history ends").map(|what| (seed, what));
            if noticed.is_some() {
                break;
            }
        }
        let Some((seed, what)) = noticed else {
            panic!("{how:?} was not noticed in {most} histories from seed {first}")
        };
        let what: String = what.lines().next().unwrap_or_default().chars().take(160).collect();
        say(&format!("sabotage: {how:?} was noticed by seed {seed}, history {}: {what}", seed.wrapping_sub(first) + 1));
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
