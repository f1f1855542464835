//! The same layers on real servers, against bare clients of these servers and against other systems:
//! `./dev bench --real [SECTION…] [quick]`.
//!
//! | section | what is measured | against |
//! | --- | --- | --- |
//! | `disk` | bytes of the topic in Kafka's log directory, at full load and at 1,000 events/s | the same events as JSON lines |
//! | `flow` | the speed layer from Kafka to CQL, few keys and many keys | a bare `rdkafka` consumer; a bare loop of prepared writes |
//! | `reads` | lookups of `tidemark serve` over HTTP | bare prepared reads of the same rows through the driver |
//! | `restart` | from the start of `tidemark speed` after SIGKILL until nothing is behind | a bare `rdkafka` consumer of the same events |
//! | `others` | events per CPU-second of the speed layer, count and sum per page | Kafka Streams and Flink |
//!
//! All share the machine with the servers, which are small (`infra/servers/`): what counts are the ratios.

pub mod consumer;
mod corner;
mod disk;
mod flow;
mod others;
mod reads;
mod restart;
mod writes;

use integration_tests::servers::Servers;

use crate::scale::Scale;
use crate::table::Table;

/// What can be asked for.
pub const SECTIONS: [&str; 5] = ["disk", "flow", "reads", "restart", "others"];

/// Measures the sections that are asked for.
pub fn measure(is_asked: impl Fn(&str) -> bool, scale: &Scale, table: &mut Table) {
    let servers = Servers::running();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        if is_asked("disk") {
            disk::measure(&servers, scale, table).await;
        }
        if is_asked("flow") {
            flow::measure(&servers, scale, table).await;
        }
        if is_asked("reads") {
            reads::measure(&servers, scale, table).await;
        }
        if is_asked("restart") {
            restart::measure(&servers, scale, table).await;
        }
        if is_asked("others") {
            others::measure(&servers, scale, table).await;
        }
    });
}
