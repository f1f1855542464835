//! Positions, cuts and publish decisions.

use views::publish::{Behind, PublishDecision, decide};
use views::view::Fingerprint;
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
        behind: Vec::new(),
    };
    let current = generation(3, &[("a", 0, 10), ("a", 1, 10)]);
    let decide_next = |next| decide(Some(&current), &next);
    assert_eq!(decide(None, &current), PublishDecision::Publish(current.clone()));
    let next = generation(4, &[("a", 0, 10), ("a", 1, 11)]);
    assert_eq!(decide_next(next.clone()), PublishDecision::Publish(next));
    assert_eq!(decide_next(generation(3, &[("a", 0, 10)])), PublishDecision::AlreadyVisible);
    let holding = Published { views: [("v".into(), Fingerprint("1".to_owned()))].into(), ..current.clone() };
    assert_eq!(decide_next(holding.clone()), PublishDecision::Superseded { by: 3 });
    assert_eq!(decide(Some(&holding), &holding), PublishDecision::AlreadyVisible);
    assert_eq!(decide_next(generation(2, &[("a", 0, 99)])), PublishDecision::Superseded { by: 3 });
    assert_eq!(decide_next(generation(4, &[("a", 0, 12), ("a", 1, 9)])), PublishDecision::MovesBack);
    assert_eq!(decide_next(generation(4, &[("a", 0, 12)])), PublishDecision::MovesBack);
}

/// Whoever publishes, and whatever he knows of the views: what the visible generation holds and the next one does not stays.
#[test]
fn a_view_that_is_left_out_stays_at_its_last_generation() {
    let published = |number, offset, views: &[(&str, &str)]| Published {
        generation: number,
        frontier: offsets(&[("a", 0, offset)]),
        views: views.iter().map(|(name, made)| ((*name).into(), Fingerprint((*made).to_owned()))).collect(),
        behind: Vec::new(),
    };
    let behind = |name: &str, made: &str, generation, offset| Behind {
        view: name.into(),
        fingerprint: Fingerprint(made.to_owned()),
        generation,
        frontier: offsets(&[("a", 0, offset)]),
    };
    let becomes = |current: &Published, next: Published| match decide(Some(current), &next) {
        PublishDecision::Publish(visible) => {
            assert_eq!(Published { behind: Vec::new(), ..visible.clone() }, next);
            visible
        }
        other => panic!("{other:?}"),
    };
    let first = published(1, 10, &[("x", "x1"), ("y", "y1"), ("z", "z1")]);
    let second = becomes(&first, published(2, 20, &[("x", "x1"), ("z", "z2")]));
    assert_eq!(second.behind, [behind("y", "y1", 1, 10), behind("z", "z1", 1, 10)]);
    let third = becomes(&second, published(3, 30, &[("y", "y1"), ("z", "z2")]));
    assert_eq!(third.behind, [behind("x", "x1", 2, 20), behind("z", "z1", 1, 10)]);
    let made = |made: &str| Fingerprint(made.to_owned());
    let of = |name: &str, fingerprint: &str| third.of_definition(name, &made(fingerprint)).map(|(number, _)| number);
    assert_eq!([of("x", "x1"), of("y", "y1"), of("z", "z1"), of("z", "z2")], [Some(2), Some(3), Some(1), Some(3)]);
    assert_eq!(of("y", "y2"), None);
    let x = third.as_of(&"x".into(), &made("x1")).expect("it is there");
    assert_eq!(x, published(2, 20, &[("x", "x1")]));
    let mut fourth = becomes(&third, published(4, 40, &[("y", "y1")]));
    fourth.forget("z", &made("z1"));
    assert_eq!(fourth.behind, [behind("z", "z2", 3, 30), behind("x", "x1", 2, 20)]);
    // What the one who publishes says of others is not asked: he may be out of date.
    let said = Published { behind: vec![behind("x", "x1", 9, 99)], ..published(5, 50, &[("y", "y1")]) };
    let PublishDecision::Publish(fifth) = decide(Some(&fourth), &said) else { panic!("it may be published") };
    assert_eq!(fifth.behind, fourth.behind);
}
