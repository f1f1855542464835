//! Recognising repeated deliveries: the ids seen in a partition, kept on local disk.
//!
//! The rule (see [`views::Source::dedupe_window`]): a record counts nowhere when a record before it in the same partition has
//! the same id and an append time at most the window earlier. The batch layer applies the same rule with a window function,
//! so this must be exact. Append times never decrease in a partition, so only the *latest* earlier occurrence matters.
//!
//! The index is fed with every record of the partition, once and in order, up to an offset `high`. It keeps
//!
//! - per id, the append time of its latest occurrence before `high`, in one keyspace per *slot* of time, at least as wide as
//!   the window. A lookup looks into two slots; older ones are dropped whole;
//! - the offsets of all duplicates from an offset `low` on. A record before `high` is never judged again: what was found
//!   the first time is looked up. So a replay, or a second task that is slower, gets the same answers.
//!
//! Feeding and the new `high` are one atomic write. The index is derived data: a lost tail is fed again from the log, and
//! when it is gone altogether ([`prepare`]) it is filled from a place in the log that is older than the window, found by binary
//! search over append times.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use event_log::decode::EventDecoder;
use event_log::{EventLog, ReadLimit};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use view_store::StoreError;
use view_store::embedded::sequence;
use views::{Offset, Source, TopicPartition};

use crate::cuts::lay_out;
use crate::error::{Result, SpeedError};

/// The folder below `dedupe_dir`: another format gets another name.
const FOLDER: &str = "seen-ids-1";

/// No slot is narrower than ten minutes: beginning one costs a few writes to the disk.
const NARROWEST_SLOT_US: i64 = 10 * 60 * 1_000_000;

/// Ids longer than this are kept as their SHA-256.
const LONGEST_ID: usize = 128;

/// Opens the database that holds the indexes of all partitions. One that cannot be read is thrown away: it is rebuilt from
/// the log.
pub(crate) fn open_database(dedupe_dir: &Path) -> Result<Database> {
    let folder = dedupe_dir.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(fjall::Error::from)?;
    let database = match open_whole(&folder) {
        Ok(database) => database,
        Err(OpenError::Damaged(what)) => {
            tracing::warn!(what, "the index of event ids is damaged; it is rebuilt from the log");
            std::fs::remove_dir_all(&folder).map_err(fjall::Error::from)?;
            std::fs::create_dir_all(&folder).map_err(fjall::Error::from)?;
            open_whole(&folder).map_err(|error| match error {
                OpenError::Failed(error) => SpeedError::SeenIds(error),
                OpenError::Damaged(what) => SpeedError::SeenIdsDamaged(what),
            })?
        }
        Err(OpenError::Failed(error)) => return Err(error.into()),
    };
    // A slot made in the place of a dropped one must not be taken for dropped at the next start: its ids would be forgotten.
    sequence::advance(&database, &database.keyspace("start", options)?, b"start".to_vec(), Vec::new())?;
    Ok(database)
}

enum OpenError {
    /// It is not what was written.
    Damaged(String),
    /// It may be fine, and cannot be opened now.
    Failed(fjall::Error),
}

/// Opens a database, unless something in it is damaged. fjall takes what its manifests say on trust, and panics at some of it.
fn open_whole(folder: &Path) -> Result<Database, OpenError> {
    use std::io::ErrorKind::{AlreadyExists, InvalidData, NotFound, UnexpectedEof};
    if let Err(StoreError::Damaged(what)) = view_store::embedded::manifest::check(folder) {
        return Err(OpenError::Damaged(what));
    }
    let open = || Database::builder(folder).cache_size(32 << 20).worker_threads(1).open();
    match std::panic::catch_unwind(open) {
        Ok(Ok(database)) => Ok(database),
        // It exists already where a file of it is missing and fjall takes it for new.
        Ok(Err(fjall::Error::Io(error)))
            if !matches!(error.kind(), AlreadyExists | InvalidData | NotFound | UnexpectedEof) =>
        {
            Err(OpenError::Failed(fjall::Error::Io(error)))
        }
        Ok(Err(error @ fjall::Error::Locked)) => Err(OpenError::Failed(error)),
        Ok(Err(error)) => Err(OpenError::Damaged(error.to_string())),
        Err(_panic) => Err(OpenError::Damaged(format!("{} cannot be recovered", folder.display()))),
    }
}

/// The seen ids of one partition.
pub(crate) struct SeenIds {
    database: Database,
    partition: TopicPartition,
    /// What its keyspaces' names begin with.
    name: String,
    window_us: i64,
    /// `low`, `high`, and the duplicates from `low` on.
    judged: Keyspace,
    slots: BTreeMap<i64, Keyspace>,
    low: Offset,
    high: Offset,
    /// Whether it goes away with this value.
    passing: bool,
}

impl SeenIds {
    /// Opens the lasting index of a partition; an empty one when there is none under this id field and window.
    pub fn open(database: &Database, source: &Source, partition: &TopicPartition) -> Result<Self> {
        Self::open_lane(database, source, partition, None)
    }

    /// Makes an index that is gone when it is dropped, for a task that lags behind what the lasting one knows.
    pub fn passing(database: &Database, source: &Source, partition: &TopicPartition, lane: u64) -> Result<Self> {
        Self::open_lane(database, source, partition, Some(lane))
    }

    fn open_lane(database: &Database, source: &Source, partition: &TopicPartition, lane: Option<u64>) -> Result<Self> {
        let window_us = i64::try_from(source.dedupe_window.as_micros()).unwrap_or(i64::MAX);
        let field = source.event_id.as_deref().unwrap_or_default();
        let rule = Sha256::digest(format!("{window_us} {field}").as_bytes());
        let rule: String = rule.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let (place, lane) =
            (format!("{}/{}", partition.topic, partition.partition), lane.map_or("-".into(), |lane| lane.to_string()));
        let name = format!("{place}/{lane}/{rule}/");
        // What another rule, or a passing index before a crash, has left under this name.
        let stale = |keyspace: &str| match lane.as_str() {
            "-" => keyspace.starts_with(&format!("{place}/")) && !keyspace.starts_with(&name),
            lane => keyspace.starts_with(&format!("{place}/{lane}/")),
        };
        let mut slots = BTreeMap::new();
        for keyspace in database.list_keyspace_names() {
            if stale(&keyspace) {
                database.delete_keyspace(database.keyspace(&keyspace, options)?)?;
            } else if let Some(slot) = keyspace.strip_prefix(&name).and_then(|rest| rest.parse().ok()) {
                slots.insert(slot, database.keyspace(&keyspace, options)?);
            }
        }
        let judged = database.keyspace(&format!("{name}judged"), options)?;
        let (low, high) = match judged.get(BOUNDS)? {
            Some(bounds) => decode_bounds(&bounds)?,
            None => (0, 0),
        };
        let (database, partition, passing) = (database.clone(), partition.clone(), lane != "-");
        Ok(Self { database, partition, name, window_us, judged, slots, low, high, passing })
    }

    /// Whether records from `offset` on can be judged.
    pub fn covers(&self, offset: Offset) -> bool {
        self.low <= offset && offset <= self.high
    }

    /// Whether it has judged, or will have, every record from `offset` on.
    pub fn reaches_back_to(&self, offset: Offset) -> bool {
        self.low <= offset
    }

    /// Judges the events of a stretch of records, and remembers their ids. Returns for each whether it counts.
    ///
    /// `records`: the offsets of all records of the stretch, whatever they hold; it must begin at or before the first
    /// offset that is not indexed yet. `offsets`, `times`, `ids`: its events.
    pub fn judge(
        &mut self,
        records: Range<Offset>,
        offsets: &[Offset],
        times: &[i64],
        ids: &ArrayRef,
    ) -> Result<Vec<bool>> {
        if records.start > self.high {
            return Err(SpeedError::NotIndexed { partition: self.partition.clone(), offset: records.start });
        }
        let known = self.known_duplicates(records.start..records.end.min(self.high))?;
        let ids = IdBytes::new(ids)?;
        let mut counts = vec![true; offsets.len()];
        let mut latest: HashMap<Vec<u8>, i64> = HashMap::new();
        let mut write = self.database.batch();
        for (row, (offset, time)) in offsets.iter().zip(times).enumerate() {
            if *offset < self.high {
                counts[row] = !known.contains(offset);
                continue;
            }
            let Some(id) = ids.get(row) else {
                continue;
            };
            let slot = self.slot_of(*time);
            let before = match latest.get(&id) {
                Some(before) => Some(*before),
                None => self.latest(&id, slot)?,
            };
            if before.is_some_and(|before| time.saturating_sub(before) <= self.window_us) {
                counts[row] = false;
                write.insert(&self.judged, duplicate_key(*offset), []);
            }
            write.insert(self.keyspace_of(slot)?, id.as_slice(), time.to_be_bytes());
            latest.insert(id, *time);
        }
        if records.end > self.high {
            write.insert(&self.judged, BOUNDS, encode_bounds(self.low, records.end));
            write.commit()?;
            self.high = records.end;
            if let Some(last) = times.last() {
                self.drop_slots_before(self.slot_of(*last) - 1)?;
            }
        }
        Ok(counts)
    }

    /// Forgets everything. Records are to be fed from `reach` on; judgements hold from `low` on.
    fn restart(&mut self, reach: Offset, low: Offset) -> Result<()> {
        // Dying in between must not leave bounds without the ids they speak of, nor ids without bounds.
        self.set_bounds(Offset::MAX, Offset::MAX)?;
        self.drop_slots_before(i64::MAX)?;
        self.judged.clear()?;
        self.set_bounds(low, reach)
    }

    fn set_bounds(&mut self, low: Offset, high: Offset) -> Result<()> {
        let mut write = self.database.batch();
        write.insert(&self.judged, BOUNDS, encode_bounds(low, high));
        write.commit()?;
        (self.low, self.high) = (low, high);
        Ok(())
    }

    fn slot_of(&self, time: i64) -> i64 {
        time.div_euclid(self.window_us.max(NARROWEST_SLOT_US))
    }

    /// The latest occurrence of an id that may matter for a record in `slot`.
    fn latest(&self, id: &[u8], slot: i64) -> Result<Option<i64>> {
        for slot in [slot, slot - 1] {
            if let Some(keyspace) = self.slots.get(&slot)
                && let Some(time) = keyspace.get(id)?
            {
                let time = <[u8; 8]>::try_from(&*time).map_err(|_| damaged("a time"))?;
                return Ok(Some(i64::from_be_bytes(time)));
            }
        }
        Ok(None)
    }

    fn keyspace_of(&mut self, slot: i64) -> Result<&Keyspace> {
        use std::collections::btree_map::Entry;
        match self.slots.entry(slot) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(self.database.keyspace(&format!("{}{slot}", self.name), options)?)),
        }
    }

    fn known_duplicates(&self, among: Range<Offset>) -> Result<HashSet<Offset>> {
        let mut known = HashSet::new();
        if !among.is_empty() {
            for duplicate in self.judged.range(duplicate_key(among.start)..duplicate_key(among.end)) {
                let key = duplicate.key()?;
                let offset =
                    key.get(1..).and_then(|offset| offset.try_into().ok()).ok_or_else(|| damaged("an offset"))?;
                known.insert(Offset::from_be_bytes(offset));
            }
        }
        Ok(known)
    }

    fn drop_slots_before(&mut self, first: i64) -> Result<()> {
        let kept = self.slots.split_off(&first);
        let old = std::mem::replace(&mut self.slots, kept);
        if !old.is_empty() {
            // A power cut may undo the latest writes, but not a drop: what was found with the old slots must be safe before.
            self.database.persist(PersistMode::SyncAll)?;
        }
        for keyspace in old.into_values() {
            self.database.delete_keyspace(keyspace)?;
        }
        Ok(())
    }
}

impl Drop for SeenIds {
    fn drop(&mut self) {
        if self.passing {
            let keyspaces = std::mem::take(&mut self.slots).into_values().chain([self.judged.clone()]);
            for keyspace in keyspaces {
                if let Err(error) = self.database.delete_keyspace(keyspace) {
                    tracing::warn!(%error, partition = %self.partition, "a passing index of event ids stays");
                }
            }
        }
    }
}

/// Makes sure that records from `at` on can be judged, feeding the index from the log as far as that takes.
///
/// `decoder` decodes the id column alone.
pub(crate) async fn prepare(
    seen: &Mutex<SeenIds>,
    log: &dyn EventLog,
    decoder: &mut EventDecoder,
    source: &Source,
    at: Offset,
) -> Result<()> {
    let (covered, low, mut next, partition) = {
        let seen = seen.lock();
        (seen.covers(at), seen.low, seen.high, seen.partition.clone())
    };
    if covered {
        return Ok(());
    }
    let reach = reach_back(log, &partition, at, source.dedupe_window).await?;
    if at < next || at < low || reach > next {
        seen.lock().restart(reach, at)?;
        next = reach;
    }
    while next < at {
        let limit = ReadLimit { records: 32_768, bytes: 4 << 20, wait: Duration::ZERO };
        let mut records = log.read(&partition, next, limit).await?;
        records.retain(|record| record.offset < at);
        // Offsets may have gaps: nothing below `at` is left when nothing was read.
        let end = records.last().map_or(at, |record| record.offset + 1);
        let decoded = decoder.decode(&partition, &records).await?;
        let rejected: Vec<Offset> = decoded.rejected.iter().map(|(offset, _)| *offset).collect();
        let layout = lay_out(views::Segment::FIRST, source.segment_records, &records, &rejected);
        seen.lock().judge(next..end, &layout.offsets, &layout.times, decoded.events.column(0))?;
        next = end;
    }
    Ok(())
}

/// An offset such that no record before it can make a record from `at` on a duplicate.
async fn reach_back(log: &dyn EventLog, partition: &TopicPartition, at: Offset, window: Duration) -> Result<Offset> {
    let bounds = log.bounds(&partition.topic).await?;
    let start = bounds.get(partition.partition as usize).map_or(0, |kept| kept.start);
    let Some(time) = time_at(log, partition, at.saturating_sub(1)).await? else {
        return Ok(start.min(at));
    };
    let oldest = time.saturating_sub(i64::try_from(window.as_micros()).unwrap_or(i64::MAX));
    let (mut low, mut high) = (start.min(at), at);
    while low < high {
        let middle = low + (high - low) / 2;
        match time_at(log, partition, middle).await? {
            Some(time) if time < oldest => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The append time of the first record at or after an offset.
async fn time_at(log: &dyn EventLog, partition: &TopicPartition, offset: Offset) -> Result<Option<i64>> {
    let records = log.read(partition, offset, ReadLimit::records(1)).await?;
    Ok(records.first().map(|record| record.append_time))
}

/// The bytes by which ids are compared: equal exactly when the ids are.
struct IdBytes(ArrayRef);

impl IdBytes {
    fn new(ids: &ArrayRef) -> Result<Self> {
        let like_bytes = match ids.data_type() {
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                ids.clone()
            }
            _ => cast(ids, &DataType::Utf8).map_err(|error| SpeedError::Definition(format!("event id: {error}")))?,
        };
        let binary = cast(&like_bytes, &DataType::Binary);
        Ok(Self(binary.map_err(|error| SpeedError::Definition(format!("event id: {error}")))?))
    }

    fn get(&self, row: usize) -> Option<Vec<u8>> {
        let ids = self.0.as_binary::<i32>();
        if ids.is_null(row) {
            return None;
        }
        let id = ids.value(row);
        // The first byte tells an id from the hash of one.
        Some(if id.len() <= LONGEST_ID { [b"=", id].concat() } else { [b"#", &Sha256::digest(id)[..]].concat() })
    }
}

const BOUNDS: &[u8] = b"bounds";

fn duplicate_key(offset: Offset) -> Vec<u8> {
    [b"d", &offset.to_be_bytes()[..]].concat()
}

fn encode_bounds(low: Offset, high: Offset) -> Vec<u8> {
    [low.to_be_bytes(), high.to_be_bytes()].concat()
}

fn decode_bounds(bytes: &[u8]) -> Result<(Offset, Offset)> {
    let (low, high) = bytes.split_at_checked(8).ok_or_else(|| damaged("bounds"))?;
    let offset = |bytes: &[u8]| bytes.try_into().map(Offset::from_be_bytes).map_err(|_| damaged("bounds"));
    Ok((offset(low)?, offset(high)?))
}

fn damaged(what: &str) -> SpeedError {
    SpeedError::SeenIdsDamaged(format!("{what} of the wrong length"))
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(8 << 20)
}
