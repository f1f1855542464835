//! Positions, cuts and publish decisions.

use views::publish::{PublishDecision, decide};
use views::{Offsets, Published, Segment, TopicPartition};

fn offsets(of: &[(&str, u32, u64)]) -> Offsets {
    of.iter().map(|(topic, partition, offset)| (TopicPartition::new(*topic, *partition), *offset)).collect()
}

#[test]
fn a_token_brings_the_position_back() {
    let position = offsets(&[("clicks", 0, 17), ("clicks", 3, 0), ("größe", 1, u64::MAX)]);
    assert_eq!(Offsets::from_token(&position.token()).unwrap(), position);
    // Frozen: a client may keep a token for as long as it likes.
    assert_eq!(offsets(&[("a", 0, 5)]).token(), "eyJhIjp7IjAiOjV9fQ");
    for wrong in ["", "x", "!!!", "e30x", "eyJhIjp7IjAiOi01fX0"] {
        assert!(Offsets::from_token(wrong).is_err(), "{wrong:?} was taken for a token");
    }
}

#[test]
fn a_position_covers_what_it_reaches() {
    let far = offsets(&[("a", 0, 5), ("a", 1, 7)]);
    assert!(far.covers(&offsets(&[("a", 0, 5)])));
    assert!(far.covers(&offsets(&[("b", 0, 0)])));
    assert!(!far.covers(&offsets(&[("a", 0, 6)])));
    assert!(!far.covers(&offsets(&[("a", 2, 1)])));
}

#[test]
fn cuts_are_multiples_and_markers_that_are_higher_than_every_earlier_one() {
    let first = Segment::FIRST;
    assert_eq!(first.at(9, 10), first);
    assert_eq!(first.at(10, 10), Segment { start: 10, marker: 0 });
    assert_eq!(first.at(37, 10), Segment { start: 30, marker: 0 });
    let after = first.after_marker(4, 2).unwrap();
    assert_eq!(after, Segment { start: 5, marker: 2 });
    assert_eq!(after.at(9, 10), after);
    assert_eq!(after.limit(10), 10);
    assert_eq!(Segment { start: 10, marker: 2 }.limit(10), 20);
    assert_eq!(after.after_marker(7, 2), None);
    assert_eq!(after.after_marker(7, 1), None);
    assert_eq!(after.after_marker(9, 3), Some(Segment { start: 10, marker: 3 }));
}

#[test]
fn a_generation_replaces_only_an_older_one_and_never_moves_back() {
    let generation = |number, frontier: &[(&str, u32, u64)]| Published {
        generation: number,
        frontier: offsets(frontier),
        views: [].into(),
    };
    let current = generation(3, &[("a", 0, 10), ("a", 1, 10)]);
    let decide_next = |next| decide(Some(&current), &next);
    assert_eq!(decide(None, &current), PublishDecision::Publish);
    assert_eq!(decide_next(generation(4, &[("a", 0, 10), ("a", 1, 11)])), PublishDecision::Publish);
    assert_eq!(decide_next(generation(3, &[("a", 0, 10)])), PublishDecision::AlreadyVisible);
    assert_eq!(decide_next(generation(2, &[("a", 0, 99)])), PublishDecision::Superseded { by: 3 });
    assert_eq!(decide_next(generation(4, &[("a", 0, 12), ("a", 1, 9)])), PublishDecision::MovesBack);
    assert_eq!(decide_next(generation(4, &[("a", 0, 12)])), PublishDecision::MovesBack);
}
