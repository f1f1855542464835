//! The bytes of everything the embedded store keeps: keys that sort by group, values that carry their checksum.
//!
//! ```text
//! key of a generation's row   1 group
//! key of a delta              1 group partition:u32be segment_start:u64be
//! value                       kind:u8 crc32:u32le body
//!   kind 0x10                   body as it is
//!   kind 0x11                   length:u32le, then the body as one LZ4 block
//! body of a delta             through:u64be state
//! ```
//!
//! Encoded groups are prefix-free (`views::stored`), so a group followed by a suffix still sorts by group first. The
//! checksum covers the key, the kind and the body as stored: a value that was moved to another key is damaged too.

use std::borrow::Cow;
use std::ops::Range;

use views::Offset;

use crate::error::{Result, StoreError};

/// The version of these formats, the first byte of every group key.
const KEY_VERSION: u8 = 1;
const PLAIN: u8 = 0x10;
const LZ4: u8 = 0x11;
const SUFFIX: usize = 12;
/// How long the head of a value is; the body follows it.
pub const HEADER: usize = 5;
/// Shorter bodies are not worth a try.
const LZ4_FROM: usize = 256;
/// The longest encoded group. Keys of up to 65,535 bytes are taken by the store below; folds give no longer groups.
pub const MAX_GROUP: usize = views::stored::MAX_GROUP;
const _: () = assert!(1 + MAX_GROUP + SUFFIX <= u16::MAX as usize);

/// The key of a group in a generation.
///
/// # Errors
///
/// `Invalid` when the group is longer than [`MAX_GROUP`].
pub fn group_key(group: &[u8]) -> Result<Vec<u8>> {
    key(group, &[])
}

/// The key of a group's delta over a segment.
///
/// # Errors
///
/// `Invalid` when the group is longer than [`MAX_GROUP`].
pub fn delta_key(group: &[u8], partition: u32, segment_start: Offset) -> Result<Vec<u8>> {
    let mut suffix = [0; SUFFIX];
    suffix[..4].copy_from_slice(&partition.to_be_bytes());
    suffix[4..].copy_from_slice(&segment_start.to_be_bytes());
    key(group, &suffix)
}

fn key(group: &[u8], suffix: &[u8]) -> Result<Vec<u8>> {
    if group.len() > MAX_GROUP {
        let length = group.len();
        return Err(StoreError::Invalid(format!("a group of {length} bytes is longer than {MAX_GROUP} bytes")));
    }
    let mut key = Vec::with_capacity(1 + group.len() + suffix.len());
    key.push(KEY_VERSION);
    key.extend_from_slice(group);
    key.extend_from_slice(suffix);
    Ok(key)
}

/// Where every key lies whose group begins with `prefix`.
pub fn prefix_range(prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut start = Vec::with_capacity(prefix.len() + SUFFIX + 1);
    start.push(KEY_VERSION);
    start.extend_from_slice(prefix);
    let end = after_prefix(&start);
    (start, end)
}

/// The least bytes that are greater than everything that begins with `prefix`, which begins with the version.
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// The group of a generation's key.
pub fn group_of(key: &[u8]) -> &[u8] {
    key.get(1..).unwrap_or_default()
}

/// The group, partition and segment start of a delta's key.
///
/// # Errors
///
/// `Damaged` when it is not a delta's key.
pub fn split_delta_key(key: &[u8]) -> Result<(&[u8], u32, Offset)> {
    let damaged = || StoreError::Damaged(format!("the key of a delta has {} bytes", key.len()));
    let (head, start) = key.split_last_chunk::<8>().ok_or_else(damaged)?;
    let (head, partition) = head.split_last_chunk::<4>().ok_or_else(damaged)?;
    let (_version, group) = head.split_first().ok_or_else(damaged)?;
    Ok((group, u32::from_be_bytes(*partition), Offset::from_be_bytes(*start)))
}

/// A value: `body` with its checksum.
pub fn seal(key: &[u8], body: &[u8]) -> Vec<u8> {
    let packed = (body.len() >= LZ4_FROM).then(|| lz4_flex::block::compress_prepend_size(body));
    let (kind, stored) = match &packed {
        Some(packed) if packed.len() + packed.len() / 8 < body.len() => (LZ4, packed.as_slice()),
        _ => (PLAIN, body),
    };
    let mut value = Vec::with_capacity(HEADER + stored.len());
    value.push(kind);
    value.extend_from_slice(&checksum(key, kind, stored).to_le_bytes());
    value.extend_from_slice(stored);
    value
}

/// The value of a delta; `scratch` is overwritten.
pub fn seal_delta(key: &[u8], through: Offset, state: &[u8], scratch: &mut Vec<u8>) -> Vec<u8> {
    scratch.clear();
    scratch.extend_from_slice(&through.to_be_bytes());
    scratch.extend_from_slice(state);
    seal(key, scratch)
}

/// The body of a value.
///
/// # Errors
///
/// `Damaged` when these are not the bytes that [`seal`] gave for this key.
pub fn open<'v>(key: &[u8], value: &'v [u8]) -> Result<Cow<'v, [u8]>> {
    let damaged = |what: &str| StoreError::Damaged(format!("a stored value {what}"));
    let Some((header, stored)) = value.split_at_checked(HEADER) else {
        return Err(damaged("is cut short"));
    };
    let kind = header[0];
    if header[1..] != checksum(key, kind, stored).to_le_bytes() {
        return Err(damaged("does not have its checksum"));
    }
    match kind {
        PLAIN => Ok(Cow::Borrowed(stored)),
        LZ4 => match lz4_flex::block::decompress_size_prepended(stored) {
            Ok(body) => Ok(Cow::Owned(body)),
            Err(error) => Err(damaged(&format!("cannot be unpacked: {error}"))),
        },
        other => Err(damaged(&format!("is of unknown kind {other:#04x}"))),
    }
}

/// The offset that a delta's body reaches, and where in the body its state is.
///
/// # Errors
///
/// `Damaged` when it is too short.
pub fn split_delta(body: &[u8]) -> Result<(Offset, Range<usize>)> {
    match body.split_first_chunk::<8>() {
        Some((through, _state)) => Ok((Offset::from_be_bytes(*through), 8..body.len())),
        None => Err(StoreError::Damaged(format!("a delta has {} bytes", body.len()))),
    }
}

fn checksum(key: &[u8], kind: u8, stored: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(&[kind]);
    crc.update(stored);
    crc.finalize()
}
