//! Settings: where they come from, which place wins, and what a mistake is answered with.

use std::time::Duration;

use tidemark::settings::{DEFAULTS, Effective, Places, Settings};
use tidemark::units::{Schedule, Size, Span, duration_in_words};

fn application(text: &str) -> Places {
    Places { application: Some(("app/tidemark.toml".to_owned(), text.to_owned())), ..Places::default() }
}

fn with_variable(mut places: Places, name: &str, value: &str) -> Places {
    places.environment.push((name.to_owned(), value.to_owned()));
    places
}

fn settings(places: &Places) -> Settings {
    Effective::read(places).expect("these settings are fine").settings
}

fn mistake(places: &Places) -> String {
    Effective::read(places).expect_err("these settings are wrong").to_string()
}

#[test]
fn without_any_place_the_commented_defaults_hold() {
    let settings = settings(&Places::default());
    assert_eq!(settings.serve.listen, "127.0.0.1:8080");
    assert_eq!(settings.speed.flush_interval, Span(Duration::from_millis(10)));
    assert_eq!(settings.batch.every, Schedule::Every(Duration::from_secs(600)));
    assert_eq!(settings.log.file_bytes, Size(64 << 20));
    assert!(DEFAULTS.contains("# How often a generation is made"));
}

#[test]
fn later_places_win() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("my.toml");
    std::fs::write(&file, "[speed]\nflush_interval = \"3ms\"\n[store]\nreplication = 2\n").expect("written");
    let mut places = application("[speed]\nflush_interval = \"2ms\"\nmemory = \"1MiB\"\n[batch]\nevery = \"never\"");
    assert_eq!(settings(&places).speed.flush_interval, Span(Duration::from_millis(2)));
    places.file = Some(file);
    assert_eq!(settings(&places).speed.flush_interval, Span(Duration::from_millis(3)));
    places = with_variable(places, "TIDEMARK__SPEED__FLUSH_INTERVAL", "4ms");
    places = with_variable(places, "TIDEMARK_SOMETHING_ELSE", "not a setting");
    let mut merged = settings(&places);
    assert_eq!(merged.speed.flush_interval, Span(Duration::from_millis(4)));
    assert_eq!((merged.speed.memory, merged.store.replication), (Size(1 << 20), 2), "places add up");
    assert_eq!(merged.batch.every, Schedule::Never);
    places.flags.push(("speed.flush_interval", "--flush", "5ms".to_owned()));
    merged = settings(&places);
    assert_eq!(merged.speed.flush_interval, Span(Duration::from_millis(5)));
}

#[test]
fn a_mistake_names_its_place_its_key_and_what_was_expected() {
    let unknown = mistake(&application("[speed]\nflush_intervall = \"1s\""));
    for part in ["app/tidemark.toml", "speed.flush_intervall", "flush_interval"] {
        assert!(unknown.contains(part), "{unknown}");
    }
    let variable = mistake(&with_variable(Places::default(), "TIDEMARK__BATHC__EVERY", "1m"));
    assert!(variable.contains("TIDEMARK__BATHC__EVERY") && variable.contains("bathc"), "{variable}");
    let duration = mistake(&application("[batch]\nevery = \"soon\""));
    assert!(duration.contains("batch.every") && duration.contains("soon") && duration.contains("10m"), "{duration}");
    let size = mistake(&application("[store]\ncache = \"many\""));
    assert!(size.contains("store.cache") && size.contains("64MiB"), "{size}");
    let kind = mistake(&application("[log]\nkind = \"pulsar\""));
    assert!(kind.contains("log.kind") && kind.contains("embedded, kafka"), "{kind}");
    let syntax = mistake(&application("[log\nkind = 1"));
    assert!(syntax.contains("app/tidemark.toml") && syntax.contains("line 1"), "{syntax}");
    assert!(mistake(&application("[batch]\nevery = \"0s\"")).contains("never"));
}

#[test]
fn effective_settings_show_origins_and_hide_secrets() {
    let places = application(
        "[registry]\nurl = \"http://ada:swordfish@registry:8081\"\n[log.kafka]\n\"sasl.password\" = \"swordfish\"\nacks = \"all\"",
    );
    let places = with_variable(places, "TIDEMARK__STORE__REPLICATION", "1");
    let effective = Effective::read(&places).expect("fine");
    let shown = effective.to_toml();
    assert!(!shown.contains("swordfish"), "{shown}");
    let line = |start: &str| shown.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
    assert!(line("url = ").contains("***@registry:8081"), "{shown}");
    assert!(line("acks = ").ends_with("# app/tidemark.toml"), "{shown}");
    assert!(line("replication = 1").ends_with("# environment TIDEMARK__STORE__REPLICATION"), "{shown}");
    assert!(!line("listen = ").contains('#'), "a default needs no origin: {shown}");
}

#[test]
fn what_is_printed_can_be_read_again() {
    let places =
        application("[speed]\nflush_interval = \"2ms\"\n[batch]\nevery = \"never\"\n[log.kafka]\n\"linger.ms\" = 5");
    let first = Effective::read(&places).expect("fine");
    let again = settings(&application(&first.to_toml()));
    assert_eq!(again, first.settings);
}

#[test]
fn sizes_and_durations_in_words() {
    assert_eq!(Size::parse("64MiB"), Ok(Size(64 << 20)));
    assert_eq!(Size::parse("2 GB"), Ok(Size(2_000_000_000)));
    assert_eq!(Size::parse("4096"), Ok(Size(4096)));
    for wrong in ["", "MiB", "-1", "1.5GiB", "1 light-year", "99999999999TiB"] {
        assert!(Size::parse(wrong).is_err(), "{wrong}");
    }
    for size in [Size(1), Size(1 << 10), Size(1500), Size(3 << 30)] {
        assert_eq!(Size::parse(&size.to_string()), Ok(size));
    }
    assert_eq!(duration_in_words(Duration::from_secs(400 * 86_400)), "400 days");
    assert_eq!(duration_in_words(Duration::from_secs(5400)), "1h 30m");
}
