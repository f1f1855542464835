//! Owners, batch runs and readers that meet at one place.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use futures::{StreamExt, TryStreamExt, stream};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use view_store::store::{DeltaWrite, KeyRange, Progress, PublishOutcome, ViewDeltas, ViewStore, WriteOutcome};
use view_store::{CqlOptions, CqlStore, StoreError};
use views::{Position, Published, Segment, View};

use super::server::Keyspace;
use super::world::{self, Counts, Turn, partition};

fn at(offset: u64) -> Position {
    [(partition(0), offset)].into_iter().collect()
}

fn write(view: &Arc<View>, from: u64, to: u64, counts: &Counts) -> DeltaWrite {
    let views = vec![ViewDeltas { view: view.clone(), segments: vec![(Segment::FIRST, world::states(view, counts))] }];
    DeltaWrite { partition: partition(0), from, to: Progress { offset: to, segment: Segment::FIRST }, views }
}

/// An owner that looked where the view stands, and writes when others have long gone on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_owner_changes_nothing() {
    let keyspace = Keyspace::new("stale").await;
    let (first, second) = (keyspace.store().await, keyspace.store().await);
    let view = world::view("minutes");
    for round in 0..10 {
        let from = round * 20;
        // Both at once: whoever is second is told so, or writes what changes nothing.
        let turns = tokio::join!(
            world::turn(&first, &view, 0, from, from + 7),
            world::turn(&second, &view, 0, from, from + 20)
        );
        for turn in [turns.0.expect("a turn"), turns.1.expect("a turn")] {
            assert!(matches!(turn, Turn::Written(_) | Turn::Conflict | Turn::Ahead(_)), "{turn:?}");
        }
        loop {
            let stands = world::stands(&second, &view, 0).await.expect("where it stands");
            if stands >= from + 20 {
                break;
            }
            println!("waiting for {} at {stands}", from + 20);
            world::turn(&second, &view, 0, stands, from + 20).await.expect("a turn");
        }
        for store in [&first, &second] {
            for url in [None, Some("u0"), Some("u1"), Some("u2")] {
                world::check(store, &view, url, &mut at(from + 20)).await.expect("a read");
            }
        }
    }
    keyspace.drop().await;
}

/// A server that was killed and has lost what it had acknowledged last: whoever remembers it must not rely on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_has_lost_writes_is_taken_at_its_word() {
    let keyspace = Keyspace::new("loses").await;
    let (writer, reader) = (keyspace.store().await, keyspace.store().await);
    let view = world::view("minutes");
    let counted = |url: &str, count: i64| -> Counts { [((url.to_owned(), 0), count)].into() };
    for (from, to, counts) in [(0, 10, counted("u0", 10)), (10, 15, counted("u1", 5)), (15, 20, counted("u0", 15))] {
        assert_eq!(writer.write_deltas(write(&view, from, to, &counts)).await.expect("a write"), WriteOutcome::Written);
    }
    let read = |store: CqlStore| {
        let view = view.clone();
        async move { world::counts(&store, &view, &KeyRange::default()).await.expect("a read") }
    };
    let (counts, position) = read(reader.clone()).await;
    assert_eq!((counts.values().sum::<i64>(), position), (20, at(20)));

    // All but the first write is gone: not deleted, which would leave something behind.
    for table in keyspace.tables().await.into_iter().chain(["progress", "buckets"].map(str::to_owned)) {
        keyspace.run(&format!("TRUNCATE KS.{table}")).await;
    }
    let first = write(&view, 0, 10, &counted("u0", 10));
    let outcome = keyspace.store().await.write_deltas(first).await;
    assert_eq!(outcome.expect("a write"), WriteOutcome::Written);
    let (counts, position) = read(reader.clone()).await;
    assert_eq!((counts.values().sum::<i64>(), position), (10, at(10)));
    let next = write(&view, 20, 25, &counted("u0", 20));
    assert_eq!(writer.write_deltas(next).await.expect("a write"), WriteOutcome::Conflict);
    let progress = writer.progress(&view, &partition(0)).await.expect("progress");
    assert_eq!(progress.offset, 10, "where to go on");
    // Nothing of u1 is remembered.
    let groups = world::states(&view, &counted("u1", 0));
    let priors = writer.deltas(&view, &partition(0), progress, &groups, &[]).await.expect("priors");
    assert!(priors.through.is_empty(), "{priors:?}");
    let again: Counts = counted("u0", 15).into_iter().chain(counted("u1", 5)).collect();
    assert_eq!(writer.write_deltas(write(&view, 10, 20, &again)).await.expect("a write"), WriteOutcome::Written);
    let (counts, position) = read(reader).await;
    assert_eq!((counts.values().sum::<i64>(), position), (20, at(20)));
    keyspace.drop().await;
}

/// A key is read once for as long as its view stands still, and never answered from before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_nothing_happened_to_is_not_read_again() {
    let keyspace = Keyspace::new("kept").await;
    let (writer, reader) = (keyspace.store().await, keyspace.store().await);
    let forgetful = CqlStore::connect(CqlOptions { kept_bytes: 0, ..keyspace.options() }).await.expect("a store");
    let view = world::view("minutes");
    let counted = |url: &str, count: i64| -> Counts { [((url.to_owned(), 0), count)].into() };
    let read = |store: &CqlStore, url: &str| {
        let (store, view, url) = (store.clone(), view.clone(), url.to_owned());
        async move {
            let range = KeyRange { key: Some(world::key(&view, &url)), ..KeyRange::default() };
            let (counts, position) = world::counts(&store, &view, &range).await.expect("a read");
            (counts.values().sum::<i64>(), position)
        }
    };
    for (from, to, counts) in [(0, 10, counted("u0", 10)), (10, 15, counted("u1", 5))] {
        assert_eq!(writer.write_deltas(write(&view, from, to, &counts)).await.expect("a write"), WriteOutcome::Written);
    }
    for url in ["u0", "u1"] {
        assert_eq!(read(&reader, url).await, read(&forgetful, url).await);
    }
    // Nobody else notices that the rows are gone: it is the progress that says where the view stands.
    for table in keyspace.tables().await {
        keyspace.run(&format!("TRUNCATE KS.{table}")).await;
    }
    assert_eq!(read(&forgetful, "u0").await, (0, at(15)), "the rows are gone");
    assert_eq!((read(&reader, "u0").await, read(&reader, "u1").await), ((10, at(15)), (5, at(15))), "they were kept");
    // As soon as the view goes on, they are what the store has.
    let next = write(&view, 15, 20, &counted("u0", 15));
    assert_eq!(writer.write_deltas(next).await.expect("a write"), WriteOutcome::Written);
    println!("waiting for the reader to see where the view stands");
    while read(&reader, "u0").await != (15, at(20)) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(read(&reader, "u1").await, (0, at(20)), "read again");
    keyspace.drop().await;
}

/// A reader that has shown a moment past its boundary does not go back to what it kept before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_is_not_older_than_what_was_shown() {
    let keyspace = Keyspace::new("shown").await;
    let writer = keyspace.store().await;
    let slow = CqlOptions { boundary_age: Duration::from_secs(600), ..keyspace.options() };
    let reader = CqlStore::connect(slow).await.expect("a store");
    let view = world::view("minutes");
    let counted = |counts: &[(&str, i64)]| -> Counts {
        counts.iter().map(|(url, count)| (((*url).to_owned(), 0), *count)).collect()
    };
    let read = async |url: &str| {
        let range = KeyRange { key: Some(world::key(&view, url)), ..KeyRange::default() };
        let (counts, position) = world::counts(&reader, &view, &range).await.expect("a read");
        (counts.values().sum::<i64>(), position)
    };
    let first = write(&view, 0, 10, &counted(&[("u0", 10)]));
    assert_eq!(writer.write_deltas(first).await.expect("a write"), WriteOutcome::Written);
    assert_eq!(read("u0").await, (10, at(10)));
    let next = write(&view, 10, 20, &counted(&[("u0", 15), ("u1", 5)]));
    assert_eq!(writer.write_deltas(next).await.expect("a write"), WriteOutcome::Written);
    assert_eq!(read("u0").await, (10, at(10)), "as of the boundary that it has");
    assert_eq!(read("u1").await, (5, at(20)), "the rows reach further than the boundary");
    assert_eq!(read("u0").await, (15, at(20)));
    keyspace.drop().await;
}

/// A thread with connections of its own reads the same, and hands them back when it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_has_connections_of_its_own() {
    let keyspace = Keyspace::new("own").await;
    let store = CqlStore::connect(CqlOptions { kept_bytes: 0, ..keyspace.options() }).await.expect("a store");
    let view = world::view("minutes");
    let counts: Counts = [(("u0".to_owned(), 0), 10)].into();
    assert_eq!(store.write_deltas(write(&view, 0, 10, &counts)).await.expect("a write"), WriteOutcome::Written);
    let of_a_thread = || {
        let (store, view, counts) = (store.clone(), view.clone(), counts.clone());
        std::thread::scope(|threads| {
            threads.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    let own = tokio::spawn(store.clone().own_connections());
                    // A second one for the same thread is one too many.
                    tokio::task::yield_now().await;
                    store.clone().own_connections().await;
                    println!("waiting for connections of the thread's own");
                    while !store.has_own_connections() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    let read = async || world::counts(&store, &view, &KeyRange::default()).await.expect("a read");
                    assert_eq!(read().await, (counts.clone(), at(10)));
                    own.abort();
                    assert!(own.await.expect_err("it does not end by itself").is_cancelled());
                    assert!(!store.has_own_connections());
                    assert_eq!(read().await, (counts, at(10)), "over those of all");
                });
            });
        });
    };
    tokio::task::block_in_place(of_a_thread);
    assert!(!store.has_own_connections());
    keyspace.drop().await;
}

/// What a write leaves that breaks off: deltas past the progress. Reads stay exact, and whoever goes on is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_breaks_off_does_no_harm() {
    let keyspace = Keyspace::new("breaks").await;
    let options = CqlOptions { in_flight: 2, patience: Duration::from_millis(200), ..keyspace.options() };
    let store = CqlStore::connect(options.clone()).await.expect("a store");
    let view = world::view("minutes");
    let all = |count: i64| -> Counts { (0..200).map(|url| ((format!("u{url:03}"), url % 2 * 9000), count)).collect() };
    assert_eq!(store.write_deltas(write(&view, 0, 10, &all(10))).await.expect("a write"), WriteOutcome::Written);
    let (mut from, mut broken, mut pause) = (10, 0, Duration::from_millis(2));
    println!("waiting for three writes that break off in the middle");
    while broken < 3 {
        let to = from + 10;
        // Every record is a click on every url.
        let writing = write(&view, from, to, &all(to as i64));
        if tokio::time::timeout(pause, store.write_deltas(writing)).await.is_ok() {
            from = to;
            pause = Duration::from_millis(2);
            continue;
        }
        // Nothing of the writer's is left but what it wrote.
        let other = CqlStore::connect(options.clone()).await.expect("a store");
        let stands = Progress { offset: from, segment: Segment::FIRST };
        let priors = other.deltas(&view, &partition(0), stands, &world::states(&view, &all(0)), &[]).await;
        let past = priors.expect("priors").through.iter().filter(|through| **through == to).count();
        if past == 0 || past == 200 {
            pause += Duration::from_millis(1);
            if world::stands(&other, &view, 0).await.expect("where it stands") == to {
                from = to;
            }
            continue;
        }
        broken += 1;
        println!("{past} of 200 urls are at {to}, the progress at {from}");
        let (everything, position) = world::counts(&other, &view, &KeyRange::default()).await.expect("a read");
        let reached = position.get(&partition(0)).unwrap_or(0);
        assert!(reached <= from, "{reached}");
        assert!(everything.values().all(|count| *count as u64 == reached));
        for url in (0..200).step_by(7).map(|url| format!("u{url:03}")) {
            let range = KeyRange { key: Some(world::key(&view, &url)), ..KeyRange::default() };
            let (counts, position) = world::counts(&other, &view, &range).await.expect("a read");
            let reached = position.get(&partition(0)).unwrap_or(0);
            // Over several buckets, and nobody goes on: as of where the open segment begins.
            assert!([0, from, to].contains(&reached), "{reached}");
            assert_eq!(counts.values().sum::<i64>() as u64, reached, "{url}");
        }
        // Somebody goes on who ends earlier: what reaches further stays.
        let outcome = other.write_deltas(write(&view, from, to - 5, &all(to as i64 - 5))).await.expect("a write");
        assert_eq!(outcome, WriteOutcome::Written);
        for url in (0..200).step_by(7).map(|url| format!("u{url:03}")) {
            let range = KeyRange { key: Some(world::key(&view, &url)), ..KeyRange::default() };
            let (counts, position) = world::counts(&other, &view, &range).await.expect("a read");
            assert_eq!(counts.values().sum::<i64>() as u64, position.get(&partition(0)).unwrap_or(0), "{url}");
        }
        from = to - 5;
        assert_eq!(
            store.write_deltas(write(&view, from, to, &all(to as i64))).await.expect("a write"),
            WriteOutcome::Written
        );
        from = to;
        let (everything, position) = world::counts(&store, &view, &KeyRange::default()).await.expect("a read");
        assert_eq!(position, at(to));
        assert!(everything.len() == 200 && everything.values().all(|count| *count as u64 == to));
    }
    keyspace.drop().await;
}

/// A key over many buckets, each write changing all of them and beginning another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_buckets_are_one_moment() {
    let keyspace = Keyspace::new("buckets").await;
    let (store, reader) = (keyspace.store().await, keyspace.store().await);
    let view = world::view("minutes");
    let (done, is_done) = tokio::sync::watch::channel(false);
    // After n records there are n tiles, 4100 minutes apart, each with n clicks.
    let tiles = |count: u64| -> Counts {
        (0..count as i64).map(|tile| (("u".to_owned(), tile * 4100), count as i64)).collect()
    };
    let ranges = [(None, None), (Some(2), None), (None, Some(9)), (Some(1), Some(4))];
    let reading = ranges.map(|(from, to)| {
        let (reader, view, is_done) = (reader.clone(), view.clone(), is_done.clone());
        tokio::spawn(async move {
            let bound = |tile: Option<i64>| tile.and_then(|tile| world::minute(&view, tile * 4100));
            let key = Some(world::key(&view, "u"));
            let range = KeyRange { key, from: bound(from), to: bound(to), after: None };
            let (mut last, mut moments) = (0, 0);
            while !*is_done.borrow() {
                let (found, position) = world::counts(&reader, &view, &range).await.expect("a read");
                let reached = position.get(&partition(0)).unwrap_or(0);
                assert!(reached >= last, "back from {last} to {reached}");
                let mut wanted = tiles(reached);
                wanted.retain(|(_, minute), _| {
                    from.is_none_or(|from| from * 4100 <= *minute) && to.is_none_or(|to| *minute < to * 4100)
                });
                assert_eq!(found, wanted, "{from:?} to {to:?} at {reached}");
                moments += u64::from(reached > last);
                last = reached;
            }
            moments
        })
    });
    println!("waiting for 60 writes of up to 60 buckets");
    for step in 0..60 {
        assert_eq!(
            store.write_deltas(write(&view, step, step + 1, &tiles(step + 1))).await.expect("a write"),
            WriteOutcome::Written
        );
    }
    done.send_replace(true);
    for reading in reading {
        let moments = reading.await.expect("a reader");
        println!("{moments} moments");
        assert!(moments > 0);
    }
    keyspace.drop().await;
}

fn texts(view: &View, tiles: i64, text: &str) -> arrow::record_batch::RecordBatch {
    let urls: ArrayRef = Arc::new(StringArray::from(vec!["u"; tiles as usize]));
    let minutes: ArrayRef =
        Arc::new((0..tiles).map(|tile| Some(tile * 60_000_000)).collect::<TimestampMicrosecondArray>());
    let texts: ArrayRef = Arc::new(StringArray::from(vec![text; tiles as usize]));
    world::batch(view, &[urls, minutes, texts])
}

/// What does not fit one batch does not appear at once, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_in_pieces_is_seen_whole() {
    let keyspace = Keyspace::new("pieces").await;
    let (store, reader) = (keyspace.store().await, keyspace.store().await);
    let view = world::view("texts");
    let mut random = StdRng::seed_from_u64(1);
    let noise: String = (0..120_000).map(|_| char::from(random.random_range(b'!'..=b'~'))).collect();
    let (done, is_done) = tokio::sync::watch::channel(false);
    let reading = {
        let (view, is_done) = (view.clone(), is_done.clone());
        tokio::spawn(async move {
            let (mut last, mut moments) = (0, 0);
            while !*is_done.borrow() {
                let range = KeyRange { key: Some(world::key(&view, "u")), ..KeyRange::default() };
                let read = reader.read(&view, &range).await.expect("a read");
                let reached = read.position.get(&partition(0)).unwrap_or(0);
                let chunks: Vec<_> = read.rows.try_collect().await.expect("rows");
                for chunk in chunks {
                    let texts = cast(chunk.states.column(2), &DataType::Utf8).expect("texts");
                    for text in texts.as_string::<i32>().iter() {
                        let step = text.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
                        assert_eq!(step, Some(reached));
                    }
                }
                assert!(reached >= last);
                moments += u64::from(reached > last);
                last = reached;
            }
            moments
        })
    };
    println!("waiting for 15 writes of 3.6 MB");
    for step in 0..15 {
        let states = texts(&view, 30, &format!("{:02} {noise}", step + 1));
        let views = vec![ViewDeltas { view: view.clone(), segments: vec![(Segment::FIRST, states)] }];
        let to = Progress { offset: step + 1, segment: Segment::FIRST };
        let write = DeltaWrite { partition: partition(0), from: step, to, views };
        assert_eq!(store.write_deltas(write).await.expect("a write"), WriteOutcome::Written);
    }
    done.send_replace(true);
    assert!(reading.await.expect("a reader") > 0);
    let table = keyspace.tables().await.remove(0);
    let found = keyspace.run(&format!("SELECT pieces FROM KS.\"{table}\" LIMIT 1")).await.into_rows_result();
    let (pieces,) = found.expect("rows").first_row::<(i32,)>().expect("a row");
    assert!(pieces > 1, "{pieces}");
    keyspace.drop().await;
}

/// Two runs that publish at the same time, again and again: each generation once, and never backwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_publish_one_wins() {
    let keyspace = Keyspace::new("race").await;
    let (first, second) = (keyspace.store().await, keyspace.store().await);
    let view = world::view("minutes");
    println!("waiting for ten races");
    for number in 1..=10 {
        let frontier = at(number * world::SEGMENT);
        let same = tokio::join!(
            world::generation(&first, &view, number, &frontier),
            world::generation(&second, &view, number, &frontier)
        );
        let mut same = [same.0.expect("an outcome"), same.1.expect("an outcome")];
        same.sort_by_key(|outcome| *outcome != PublishOutcome::Published);
        assert_eq!(same, [PublishOutcome::Published, PublishOutcome::AlreadyVisible]);
        for store in [&first, &second] {
            world::check(store, &view, None, &mut frontier.clone()).await.expect("a read");
        }
    }
    // The older one may be first, or be told; the newer one is what is there in the end.
    for number in [12, 14, 16, 18, 20_u64] {
        let (older, newer) = (at((number - 1) * world::SEGMENT), at(number * world::SEGMENT));
        let both = tokio::join!(
            world::generation(&first, &view, number - 1, &older),
            world::generation(&second, &view, number, &newer)
        );
        let older = both.0.expect("an outcome");
        assert!(matches!(older, PublishOutcome::Published | PublishOutcome::Superseded { .. }), "{older:?}");
        assert_eq!(both.1.expect("an outcome"), PublishOutcome::Published);
        world::check(&first, &view, None, &mut newer.clone()).await.expect("a read");
    }
    keyspace.drop().await;
}

/// Two processes that both need a table for the same view.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_gets_one_table() {
    let keyspace = Keyspace::new("tables").await;
    let view = world::view("minutes");
    let stores = [keyspace.store().await, keyspace.store().await, keyspace.store().await];
    let turns = stores.iter().enumerate().map(|(number, store)| world::turn(store, &view, number as u32, 0, 30));
    println!("waiting for three first writes");
    for turn in futures::future::join_all(turns).await {
        assert_eq!(turn.expect("a turn"), Turn::Written(30));
    }
    assert_eq!(keyspace.tables().await.len(), 1);
    let mut position: Position = (0..3).map(|number| (partition(number), 30)).collect();
    world::check(&stores[0], &view, None, &mut position).await.expect("a read");
    // Another process lets go of the view and has it again: who was there before notices.
    let rows = stream::iter([Ok(world::states(&view, &world::truth(&position)))]).boxed();
    stores[0].write_generation(&view, 1, rows).await.expect("a generation");
    let views = [(view.name.clone(), view.fingerprint.clone())].into();
    let next = Published { generation: 1, frontier: Position::new(), views, behind: Vec::new() };
    stores[0].publish(&next).await.expect("publishing");
    println!("waiting for the view to be let go of");
    stores[2].retire(&[]).await.expect("retiring");
    let stale = world::turn(&stores[0], &view, 0, 30, 35).await;
    assert!(matches!(&stale, Ok(Turn::Conflict) | Err(StoreError::Unavailable { .. })), "{stale:?}");
    assert_eq!(world::turn(&stores[2], &view, 0, 0, 9).await.expect("a turn"), Turn::Written(9));
    for store in &stores {
        assert_eq!(world::stands(store, &view, 0).await.expect("where it stands"), 9);
        world::check(store, &view, None, &mut at(9)).await.expect("a read");
        world::check(store, &view, Some("u1"), &mut at(9)).await.expect("a read");
    }
    keyspace.drop().await;
}
