//! Good bodies with random bytes changed: whatever comes of them, it adds up, and the server answers.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::containers;
use super::house::{AVRO, CLICKS, House, JSON, LINES, click};

/// One change of some bytes.
fn mutate(bytes: &mut Vec<u8>, chance: &mut StdRng) {
    if bytes.is_empty() {
        return;
    }
    let at = chance.random_range(0..bytes.len());
    let end = (at + chance.random_range(1..20)).min(bytes.len());
    match chance.random_range(0..6) {
        0 => bytes[at] ^= 1 << chance.random_range(0..8),
        1 => bytes[at] = chance.random(),
        2 => bytes.insert(at, b"\"\\{}[],:0-e\n\0\xff\xc3"[chance.random_range(0..15)]),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let copied = bytes[at..end].to_vec();
            bytes.splice(at..at, copied);
        }
        _ => bytes.truncate(at),
    }
}

#[tokio::test]
async fn random_mutations_of_good_bodies_add_up() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seed, bodies) = (number("SEED", 0x746f_7274), number("BODIES", 900));
    println!("SEED={seed} BODIES={bodies}");
    let mut chance = StdRng::seed_from_u64(seed);
    let house = House::open();
    let events: Vec<String> = (0..6).map(|number| click(&format!("/m/é{number}"), number)).collect();
    let container = containers::clicks("/m", 25, apache_avro::Codec::Null);
    let packed = containers::clicks("/m", 25, apache_avro::Codec::Zstandard(Default::default()));
    let good = [
        (JSON, format!("[{}]", events.join(", ")).into_bytes()),
        (LINES, events.join("\n").into_bytes()),
        (AVRO, container),
        (AVRO, packed),
    ];
    let (mut accepted, mut rejected, mut whole) = (0, 0, 0);
    for body_number in 0..bodies {
        let (form, body) = &good[chance.random_range(0..good.len())];
        let mut body = body.clone();
        for _ in 0..chance.random_range(1..4) {
            mutate(&mut body, &mut chance);
        }
        let what = || format!("SEED={seed}, body {body_number}: {form}: {}", body.escape_ascii());
        let answer = house.post(CLICKS, form, body.clone()).await;
        match answer.status {
            200 => {
                let said = answer.json();
                let took = said["accepted"].as_u64().unwrap_or_else(|| panic!("{}: {said}", what()));
                let refused = said["rejected"].as_array().map_or(0, Vec::len) as u64;
                if *form == LINES {
                    let is_blank = |line: &[u8]| line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'));
                    let lines = body.split(|byte| *byte == b'\n').filter(|line| !is_blank(line)).count() as u64;
                    assert_eq!(took + refused, lines, "{}: {said}", what());
                }
                if *form == JSON
                    && let Ok(parsed) = serde_json::from_slice::<serde_json::Value>(&body)
                {
                    let events = parsed.as_array().map_or(1, Vec::len) as u64;
                    assert_eq!(took + refused, events, "{}: {said}", what());
                }
                accepted += took;
                rejected += refused;
            }
            400 => {
                answer.refuses(400, "");
                whole += u64::from(!body.is_empty());
            }
            other => panic!("{}: {other}: {}", what(), answer.body),
        }
    }
    println!("{accepted} events accepted, {rejected} rejected, {whole} bodies refused");
    assert!(accepted > 0 && rejected > 0 && whole > 0);
    // Nothing is lost between the answers, the log and the dead letters.
    let status = house.get("/v1/status").await.json();
    let topic = &status["topics"][CLICKS];
    let ends = topic["partitions"].as_array().into_iter().flatten().filter_map(|partition| partition["end"].as_u64());
    assert_eq!(ends.sum::<u64>(), accepted, "{status}");
    assert_eq!(topic["accepted"], accepted, "{status}");
    assert_eq!((&topic["rejected"], &topic["dead_letters"]), (&(rejected + whole).into(), &(rejected + whole).into()));
    // What was accepted is in the views; `verify` folds it again from the log.
    house.mutated().await;
}
