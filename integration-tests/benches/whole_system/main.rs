//! The whole measured against plain parts, in one run on one machine: `./dev bench [SECTION…] [quick]`.
//!
//! | section | what is measured | against |
//! | --- | --- | --- |
//! | `speed` | the speed layer on one core: log → deltas in the embedded store | `arrow-avro` decoding the same bytes |
//! | `batch` | a batch run: archive → published generation | plain DataFusion, the same SQL over the same files |
//! | `archive` | bytes per event in the archive | the same events as JSON lines |
//! | `lookups` | merged answers of a real process over HTTP | an actix-web handler that returns a constant of the same size |
//! | `freshness` | from an event's acknowledgement to the first answer that holds it | |
//! | `backfill` | lookups while another view is backfilled | the same lookups without |
//! | `memory` | peak RSS of a real process with default settings while many events and keys go in and a batch run passes | |
//!
//! With `--real`, sections of its own: [`real`].
//!
//! What is compared is measured in turns (one of each, several times) and the median of the ratios is given, so that
//! another load on the machine meets both. Nothing is asserted: the table says what was reached. `TIDEMARK_BENCH_EVENTS`
//! sets how many events `memory` loads.

mod backfill;
mod batch;
mod clicks;
mod constant;
mod freshness;
mod http;
mod lookups;
mod measure;
mod memory;
mod real;
mod scale;
mod speed;
mod table;

use std::process::ExitCode;

use scale::Scale;
use table::Table;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const SECTIONS: [&str; 7] = ["speed", "batch", "archive", "lookups", "freshness", "backfill", "memory"];

fn main() -> ExitCode {
    // Cargo adds `--bench` to what it was given.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        // This binary as the process of one measurement.
        ["--constant", size] => constant::serve(size.parse().expect("a size")),
        ["--one-core", folder, turns] => speed::turns(folder.as_ref(), turns.parse().expect("how many turns")),
        _ => {
            let is_real = words.contains(&"--real");
            let sections: &[&str] = if is_real { &real::SECTIONS } else { &SECTIONS };
            let is_known = |word: &str| ["quick", "--real"].contains(&word) || sections.contains(&word);
            if let Some(word) = words.iter().find(|word| !is_known(word)) {
                eprintln!("there is no section `{word}`; there are {}, and the word quick", sections.join(", "));
                return ExitCode::FAILURE;
            }
            all(&words, is_real, sections);
        }
    }
    ExitCode::SUCCESS
}

fn all(words: &[&str], is_real: bool, sections: &[&str]) {
    let scale = if words.contains(&"quick") { Scale::quick() } else { Scale::full() };
    let asked: Vec<&str> = sections.iter().copied().filter(|section| words.contains(section)).collect();
    let is_asked = |section: &str| asked.is_empty() || asked.contains(&section);
    let mut table = Table::default();
    if is_real {
        real::measure(is_asked, &scale, &mut table);
        println!("\n{}", table.text());
        return;
    }
    if is_asked("speed") {
        speed::measure(&scale, &mut table);
    }
    if is_asked("batch") || is_asked("archive") {
        batch::measure(&scale, is_asked("batch"), is_asked("archive"), &mut table);
    }
    if is_asked("lookups") {
        lookups::measure(&scale, &mut table);
    }
    if is_asked("freshness") {
        freshness::measure(&scale, &mut table);
    }
    if is_asked("backfill") {
        backfill::measure(&scale, &mut table);
    }
    if is_asked("memory") {
        memory::measure(&scale, &mut table);
    }
    println!("\n{}", table.text());
}
