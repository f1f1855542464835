//! Writing: deltas, generations, what is published, and letting go. One thread at a time, under `Inner::writer`; only
//! the rows of a generation are loaded outside of it.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use fjall::{Keyspace, OwnedWriteBatch, PersistMode};
use tokio::sync::mpsc;
use views::publish::{PublishDecision, decide};
use views::view::Fingerprint;
use views::{Published, Segment, View};

use super::moment::{DeltaSpace, Moment, ViewMoment};
use super::records::{POINTER, Pointer, PointerView, Record, WrittenRecord};
use super::{
    Inner, Writer, Written, bytes, delta_space_name, delta_space_options, failed, generation_space,
    generation_space_options, in_memory, record_of,
};
use crate::delta_write;
use crate::error::{Result, StoreError};
use crate::store::{DeltaWrite, PublishOutcome, ViewDeltas, WriteOutcome};

/// Chunks of a generation's rows; `None` after the last.
pub type Rows = mpsc::Receiver<Option<Result<RecordBatch>>>;

impl Inner {
    /// Writes deltas and progress in one batch, when every view stands at `from`.
    pub fn write_deltas(&self, write: &DeltaWrite) -> Result<WriteOutcome> {
        delta_write::check(write)?;
        let mut encoded = Vec::with_capacity(write.views.len());
        for deltas in &write.views {
            encoded.push(self.encode(write, deltas)?);
        }
        let mut writer = self.writer.lock();
        let moment = self.moment();
        let partition = write.partition.partition;
        let stands_at = |view: &View| moment.view(view).map_or(0, |state| state.stands_at(partition));
        if write.views.iter().any(|deltas| stands_at(&deltas.view) != write.from) {
            return Ok(WriteOutcome::Conflict);
        }
        let mut batch = self.db.batch();
        let mut next_moment = Moment::clone(&moment);
        let mut size = 0;
        for (deltas, segments) in write.views.iter().zip(encoded) {
            let mut state = self.view_for_writing(&mut writer, &next_moment, &deltas.view, &mut batch)?;
            for (segment, rows) in segments {
                let keyspace = self.delta_space(&mut state, segment.marker, partition, &mut batch)?;
                for (key, value) in rows {
                    size += (key.len() + value.len()) as u64;
                    batch.insert(&keyspace, key, value);
                }
            }
            state.progress.insert(partition, write.to);
            self.put(&mut batch, &Record::Progress(state.id, partition, write.to))?;
            next_moment.set(state);
        }
        batch.commit().map_err(|error| failed("writing deltas", error))?;
        self.show(next_moment);
        self.bound_memory(&mut writer, size)?;
        Ok(WriteOutcome::Written)
    }

    /// The keys and values of one view's deltas, per segment.
    fn encode(&self, write: &DeltaWrite, deltas: &ViewDeltas) -> Result<Vec<(Segment, Vec<Row>)>> {
        let codec = self.codec(&deltas.view)?;
        let mut scratch = Vec::new();
        let mut segments = Vec::with_capacity(deltas.segments.len());
        for (segment, states) in &deltas.segments {
            let through = delta_write::through(write, deltas, *segment);
            let states = codec.encode(states)?;
            let mut rows = Vec::with_capacity(states.len());
            for row in 0..states.len() {
                let key = bytes::delta_key(states.group(row), write.partition.partition, segment.start)?;
                let value = bytes::seal_delta(&key, through, states.state(row), &mut scratch);
                rows.push((key, value));
            }
            if !rows.is_empty() {
                segments.push((*segment, rows));
            }
        }
        Ok(segments)
    }

    /// The view's state, with a number of its own if it is new.
    fn view_for_writing(
        &self,
        writer: &mut Writer,
        moment: &Moment,
        view: &View,
        batch: &mut OwnedWriteBatch,
    ) -> Result<ViewMoment> {
        if let Some(state) = moment.view(view) {
            return Ok(ViewMoment::clone(state));
        }
        let id = writer.next_view;
        writer.next_view += 1;
        let record = record_of(view);
        self.put(batch, &Record::View(id, record.clone()))?;
        Ok(ViewMoment::new(id, record))
    }

    /// The keyspace for deltas over segments with this marker, made when it is not there.
    fn delta_space(
        &self,
        state: &mut ViewMoment,
        marker: u64,
        partition: u32,
        batch: &mut OwnedWriteBatch,
    ) -> Result<Keyspace> {
        let place = state.deltas.binary_search_by_key(&marker, |deltas| deltas.marker);
        let record = Record::Deltas(state.id, marker, partition);
        match place {
            Ok(place) => {
                let deltas = &mut state.deltas[place];
                if !deltas.partitions.contains(&partition) {
                    Arc::make_mut(deltas).partitions.insert(partition);
                    self.put(batch, &record)?;
                }
                Ok(deltas.keyspace.clone())
            }
            Err(place) => {
                let name = delta_space_name(state.id, marker);
                if self.db.keyspace_exists(&name) {
                    // Nothing speaks of it: a step that failed left it, with deltas that no longer count.
                    self.drop_space(self.create(&name, || delta_space_options(&self.options))?)?;
                }
                let keyspace = self.create(&name, || delta_space_options(&self.options))?;
                self.put(batch, &record)?;
                let deltas = DeltaSpace { marker, keyspace: keyspace.clone(), partitions: [partition].into() };
                state.deltas.insert(place, Arc::new(deltas));
                Ok(keyspace)
            }
        }
    }

    fn create(&self, name: &str, options: impl FnOnce() -> fjall::KeyspaceCreateOptions) -> Result<Keyspace> {
        self.db.keyspace(name, options).map_err(|error| failed(format!("creating the keyspace `{name}`"), error))
    }

    fn put(&self, batch: &mut OwnedWriteBatch, record: &Record) -> Result<()> {
        batch.insert(&self.records, record.key(), record.value()?);
        Ok(())
    }

    /// Makes a complete change visible. The caller holds the writer's lock, so no half of another change can be in the
    /// snapshot.
    fn show(&self, mut next: Moment) {
        next.snapshot = self.db.snapshot();
        let next = Arc::new(next);
        let before = std::mem::replace(&mut *self.moment.write(), next);
        // Outside the lock: dropping the last handle of a dropped keyspace removes its files.
        drop(before);
    }

    /// Has the largest memtables written out when all together are too large: fjall bounds each, not their sum.
    fn bound_memory(&self, writer: &mut Writer, written: u64) -> Result<()> {
        writer.unmeasured += written;
        if writer.unmeasured < self.options.write_buffer_bytes / 16 {
            return Ok(());
        }
        writer.unmeasured = 0;
        let moment = self.moment();
        let mut spaces: Vec<_> =
            moment.all().flat_map(|view| &view.deltas).map(|space| (in_memory(space), space)).collect();
        let mut total: u64 = spaces.iter().map(|(size, _)| size).sum();
        spaces.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
        for (size, space) in spaces {
            if total <= self.options.write_buffer_bytes / 2 {
                break;
            }
            space.keyspace.rotate_memtable().map_err(|error| failed("flushing deltas", error))?;
            total -= size;
        }
        Ok(())
    }

    /// Loads the rows of a generation into a keyspace of their own. Returns their number.
    pub fn write_generation(&self, view: &Arc<View>, generation: u64, mut rows: Rows) -> Result<u64> {
        let visible = |moment: &Moment| moment.pointer.as_ref().is_some_and(|p| p.published.generation >= generation);
        if visible(&self.moment()) {
            return count(&mut rows);
        }
        let (name, keyspace) = {
            let mut writer = self.writer.lock();
            let attempt = writer.next_attempt;
            writer.next_attempt += 1;
            let moment = self.moment();
            let mut batch = self.db.batch();
            let state = self.view_for_writing(&mut writer, &moment, view, &mut batch)?;
            let is_new = moment.view(view).is_none();
            let name = format!("g.{}.{generation}.{attempt}", state.id);
            let keyspace = self.create(&name, generation_space_options)?;
            if is_new {
                batch.commit().map_err(|error| failed("writing a generation", error))?;
                let mut next = Moment::clone(&moment);
                next.set(state);
                self.show(next);
            }
            (name, keyspace)
        };
        let loaded = self.load_rows(view, &keyspace, &mut rows);
        let mut writer = self.writer.lock();
        let moment = self.moment();
        let (written, id) = match (loaded, moment.view(view)) {
            (Ok(written), Some(state)) if !visible(&moment) => (written, state.id),
            // Another run published this number meanwhile, or the view was retired: these rows are garbage.
            (outcome, _) => {
                self.drop_space(keyspace)?;
                return outcome;
            }
        };
        let record = WrittenRecord { keyspace: name, rows: written };
        let mut batch = self.db.batch();
        self.put(&mut batch, &Record::Written(id, generation, record.clone()))?;
        batch.commit().map_err(|error| failed("writing a generation", error))?;
        if let Some(earlier) = writer.written.insert((id, generation), Written { record, keyspace }) {
            self.drop_space(earlier.keyspace)?;
        }
        Ok(written)
    }

    fn load_rows(&self, view: &View, keyspace: &Keyspace, rows: &mut Rows) -> Result<u64> {
        let codec = self.codec(view)?;
        let context = || format!("writing a generation of view `{}`", view.name);
        let mut ingestion = keyspace.start_ingestion().map_err(|error| failed(context(), error))?;
        let mut last: Vec<u8> = Vec::new();
        let mut written = 0;
        loop {
            let Some(chunk) = rows.blocking_recv() else {
                return Err(StoreError::unavailable(context(), "the run was dropped before its last row"));
            };
            let Some(chunk) = chunk else { break };
            let states = codec.encode(&chunk?)?;
            for row in 0..states.len() {
                let key = bytes::group_key(states.group(row))?;
                if key <= last {
                    let name = &view.name;
                    return Err(StoreError::Invalid(format!("view `{name}`: rows out of order or a group twice")));
                }
                let value = bytes::seal(&key, states.state(row));
                ingestion.write(key.as_slice(), value).map_err(|error| failed(context(), error))?;
                last = key;
                written += 1;
            }
        }
        ingestion.finish().map_err(|error| failed(context(), error))?;
        // fjall syncs the keyspace's files and folder, not the name of the folder in its parent.
        let folder = keyspace.path().parent().unwrap_or(keyspace.path());
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| StoreError::unavailable(context(), error))?;
        Ok(written)
    }

    /// The switch: a table of its own in `published`, fsync'd, then the next moment.
    pub fn publish(&self, next: &Published) -> Result<PublishOutcome> {
        let writer = self.writer.lock();
        let moment = self.moment();
        let current = moment.pointer.as_ref().map(|pointer| &pointer.published);
        let visible = match decide(current, next) {
            PublishDecision::Publish(visible) => visible,
            PublishDecision::AlreadyVisible => return Ok(PublishOutcome::AlreadyVisible),
            PublishDecision::Superseded { by } => return Ok(PublishOutcome::Superseded { by }),
            PublishDecision::MovesBack => {
                let (generation, frontier) = (next.generation, &next.frontier);
                let visible = current.map(|current| current.frontier.to_string()).unwrap_or_default();
                return Err(StoreError::Invalid(format!(
                    "generation {generation} would move the frontier back from {visible} to {frontier}"
                )));
            }
        };
        let mut pointer = Pointer { published: visible, views: Vec::new() };
        let mut keyspaces = BTreeMap::new();
        for (name, fingerprint) in &next.views {
            let state = moment.find(name, fingerprint);
            let written = state.and_then(|state| writer.written.get(&(state.id, next.generation)));
            let (Some(state), Some(written)) = (state, written) else {
                let generation = next.generation;
                return Err(StoreError::Invalid(format!("generation {generation} of view `{name}` was not written")));
            };
            keyspaces.insert(state.id, written.keyspace.clone());
            let (view, written) = (state.record.clone(), written.record.clone());
            pointer.views.push(PointerView { id: state.id, view, written });
        }
        // What stays at an earlier generation, with its rows there.
        for behind in &pointer.published.behind {
            let state = moment.find(&behind.view, &behind.fingerprint);
            let Some((state, generation)) = state.and_then(|state| Some((state, state.generation.as_ref()?))) else {
                return Err(StoreError::Damaged(format!(
                    "generation {} of `{}` is gone",
                    behind.generation, behind.view
                )));
            };
            let (view, written) = (state.record.clone(), generation.written.clone());
            pointer.views.push(PointerView { id: state.id, view, written });
            keyspaces.insert(state.id, generation.keyspace.clone());
        }
        // The records of these views must not be lost when the pointer to them is not.
        self.db.persist(PersistMode::SyncAll).map_err(|error| failed("publishing", error))?;
        let mut after = Moment::clone(&moment);
        for state in moment.all() {
            let mut state = ViewMoment::clone(state);
            let held = pointer.views.iter().find(|held| held.id == state.id).zip(keyspaces.remove(&state.id));
            state.generation = match held {
                Some((held, keyspace)) => Some(Arc::new(generation_space(&pointer, held, keyspace)?)),
                None => None,
            };
            after.set(state);
        }
        self.point_to(&pointer)?;
        after.pointer = Some(Arc::new(pointer));
        self.show(after);
        drop(writer);
        Ok(PublishOutcome::Published)
    }

    fn point_to(&self, pointer: &Pointer) -> Result<()> {
        let context = || "publishing".to_string();
        let mut ingestion = self.published.start_ingestion().map_err(|error| failed(context(), error))?;
        ingestion.write(POINTER, pointer.value()?).map_err(|error| failed(context(), error))?;
        ingestion.finish().map_err(|error| failed(context(), error))?;
        Ok(())
    }

    /// Lets go of what no reader can need, in steps after each of which the store is whole, so that it may stop after any of
    /// them: deltas that nobody needs and all deltas of views that go; what is published of those; their last records. A keyspace
    /// goes when nothing speaks of it any more, durably.
    pub fn retire(&self, kept: &HashSet<(Arc<str>, Fingerprint)>) -> Result<()> {
        let mut writer = self.writer.lock();
        self.retire_deltas(kept)?;
        self.retire_published(kept)?;
        self.retire_records(&mut writer, kept)
    }

    /// What a frontier covers goes. A view that goes loses all its deltas, and stands where its generation does.
    fn retire_deltas(&self, kept: &HashSet<(Arc<str>, Fingerprint)>) -> Result<()> {
        let moment = self.moment();
        let mut dropped = Vec::new();
        let mut next = Moment::clone(&moment);
        let mut batch = self.db.batch();
        for state in moment.all() {
            let mut state = ViewMoment::clone(state);
            let goes = !is_kept(&state, kept);
            let (unneeded, left): (Vec<_>, Vec<_>) =
                std::mem::take(&mut state.deltas).into_iter().partition(|deltas| goes || state.covers(deltas));
            for deltas in unneeded {
                for partition in &deltas.partitions {
                    batch.remove(&self.records, Record::Deltas(state.id, deltas.marker, *partition).key());
                }
                dropped.push(deltas.keyspace.clone());
            }
            state.deltas = left;
            if goes {
                for (partition, progress) in std::mem::take(&mut state.progress) {
                    batch.remove(&self.records, Record::Progress(state.id, partition, progress).key());
                }
            }
            next.set(state);
        }
        self.retire_step(batch, next)?;
        dropped.into_iter().try_for_each(|keyspace| self.drop_space(keyspace))
    }

    /// A view that comes back must not find a generation that is said to hold it.
    ///
    /// Forgotten here first: should nobody know whether the switch was written, the view starts from nothing, which is right
    /// beside either value.
    fn retire_published(&self, kept: &HashSet<(Arc<str>, Fingerprint)>) -> Result<()> {
        let moment = self.moment();
        let Some(pointer) = &moment.pointer else { return Ok(()) };
        let goes = |held: &PointerView| !kept.contains(&(held.view.name.clone(), held.view.fingerprint.clone()));
        if !pointer.views.iter().any(goes) {
            return Ok(());
        }
        let mut pointer = Pointer::clone(pointer);
        for held in pointer.views.extract_if(.., |held| goes(held)) {
            pointer.published.forget(&held.view.name, &held.view.fingerprint);
        }
        let mut next = Moment::clone(&moment);
        for state in moment.all() {
            let Some(generation) = &state.generation else { continue };
            let held = pointer.views.iter().find(|held| held.id == state.id);
            let generation = match held {
                Some(held) => Some(Arc::new(generation_space(&pointer, held, generation.keyspace.clone())?)),
                None => None,
            };
            next.set(ViewMoment { generation, ..ViewMoment::clone(state) });
        }
        next.pointer = Some(Arc::new(pointer.clone()));
        self.show(next);
        self.point_to(&pointer)
    }

    /// The views that go, of which nothing but their records is left, and the rows of generations that are not to be seen.
    fn retire_records(&self, writer: &mut Writer, kept: &HashSet<(Arc<str>, Fingerprint)>) -> Result<()> {
        let moment = self.moment();
        let mut dropped = Vec::new();
        let mut next = Moment::clone(&moment);
        let mut batch = self.db.batch();
        for state in moment.all().filter(|state| !is_kept(state, kept)) {
            batch.remove(&self.records, Record::View(state.id, state.record.clone()).key());
            next.remove(state.id);
        }
        let visible = next.pointer.as_ref().map(|pointer| pointer.published.generation);
        let held: HashSet<String> =
            next.pointer.iter().flat_map(|pointer| &pointer.views).map(|held| held.written.keyspace.clone()).collect();
        let stays = |id| next.all().any(|state| state.id == id);
        let unneeded = |(id, generation): &(u64, u64), written: &mut Written| {
            !stays(*id)
                || (visible.is_some_and(|visible| *generation <= visible) && !held.contains(&written.record.keyspace))
        };
        for ((id, generation), written) in writer.written.extract_if(unneeded) {
            batch.remove(&self.records, Record::Written(id, generation, written.record).key());
            dropped.push(written.keyspace);
        }
        self.retire_step(batch, next)?;
        dropped.into_iter().try_for_each(|keyspace| self.drop_space(keyspace))
    }

    fn retire_step(&self, batch: OwnedWriteBatch, next: Moment) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        batch.commit().map_err(|error| failed("retiring", error))?;
        self.db.persist(PersistMode::SyncAll).map_err(|error| failed("retiring", error))?;
        self.show(next);
        Ok(())
    }

    /// Its files go when the last reader lets go of it.
    fn drop_space(&self, keyspace: Keyspace) -> Result<()> {
        let name = keyspace.name().clone();
        self.db.delete_keyspace(keyspace).map_err(|error| failed(format!("dropping `{name}`"), error))
    }
}

type Row = (Vec<u8>, Vec<u8>);

fn is_kept(state: &ViewMoment, kept: &HashSet<(Arc<str>, Fingerprint)>) -> bool {
    kept.contains(&(state.record.name.clone(), state.record.fingerprint.clone()))
}

fn count(rows: &mut Rows) -> Result<u64> {
    let mut counted = 0;
    while let Some(Some(chunk)) = rows.blocking_recv() {
        counted += chunk?.num_rows() as u64;
    }
    Ok(counted)
}
