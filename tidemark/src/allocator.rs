//! The allocator of the process: jemalloc, told to give memory back soon.
//!
//! What one thread allocates here another frees: record batches, chunks of the log, states. mimalloc keeps such pages for
//! the thread they came from, and the process grew to twice what was in use (measured by `./dev bench memory`: 1618 MiB
//! at the peak of three million clicks and a batch run, where jemalloc has 847).
#![allow(unsafe_code, reason = "jemalloc finds its settings by the name of a symbol")]

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Read by jemalloc before the first allocation; ends in a zero. Few arenas and a short decay: little memory that nobody uses.
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: &[u8] = b"background_thread:true,narenas:4,dirty_decay_ms:200,muzzy_decay_ms:0\0";
