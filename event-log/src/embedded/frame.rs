//! The bytes of a log file, version 1. All numbers are little-endian.
//!
//! A file is a header and then frames, one per record, nothing between or after them.
//!
//! ```text
//! header, 52 bytes
//!  0  8 bytes  "TIDELOG\n"
//!  8  u32      version: 1
//! 12  u32      salt: random per file, part of every frame's checksum
//! 16  u64      base: the offset of the file's first record (also its name)
//! 24  u64      base of the file before this one; all ones when there was none
//! 32  u64      length in bytes of the file before this one; 0 when there was none
//! 40  i64      append time of the last record before this file; the lowest i64 when there was none
//! 48  u32      crc32 of bytes 0..48
//!
//! frame, 33 bytes and the key and the value
//!  0  u32      length of key and value together
//!  4  u8       flags: 1 first frame of a group, 2 marker, 4 has a key; the others are zero
//!  5  u64      offset: one more than the frame before
//! 13  i64      append time: microseconds since the epoch
//! 21  u32      length of the key
//! 25  u32      crc32 of the salt and bytes 0..25
//! 29  u32      crc32 of bytes 25..29, key and value
//! 33           key, value; the value of a marker is its number as u64
//! ```
//!
//! A group is what was written and synced in one go; it never spans files. Recovery searches for frames byte by byte: the salt keeps
//! a value that somebody made to look like a frame from being taken for one, and the checksum of the head keeps the search
//! from reading on at places that only look like one.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use views::Offset;

use crate::log::{Content, Record};

/// The length of a file header.
pub const HEADER: usize = 52;
/// The length of a frame without key and value.
pub const FRAME: usize = 33;
/// The longest key and value together. Checked before memory is taken for a frame.
pub const MAX_CONTENT: usize = 64 << 20;

const MAGIC: &[u8; 8] = b"TIDELOG\n";
const VERSION: u32 = 1;

const GROUP_START: u8 = 1;
const MARKER: u8 = 2;
const KEY: u8 = 4;

/// The first bytes of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Part of every frame's checksum.
    pub salt: u32,
    /// The offset of the first record.
    pub base: Offset,
    /// Base and length of the file before this one.
    pub previous: Option<(Offset, u64)>,
    /// The append time of the last record before this file.
    pub last_time: i64,
}

impl Header {
    /// The bytes of this header.
    pub fn encode(&self) -> [u8; HEADER] {
        let (previous_base, previous_length) = self.previous.unwrap_or((u64::MAX, 0));
        let mut bytes = [0; HEADER];
        let mut rest = &mut bytes[..];
        rest.put_slice(MAGIC);
        rest.put_u32_le(VERSION);
        rest.put_u32_le(self.salt);
        rest.put_u64_le(self.base);
        rest.put_u64_le(previous_base);
        rest.put_u64_le(previous_length);
        rest.put_i64_le(self.last_time);
        let crc = crc32fast::hash(&bytes[..48]);
        bytes[48..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header, or says why it is none.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, String> {
        if &bytes[..8] != MAGIC {
            return Err("not a log file".into());
        }
        if crc32fast::hash(&bytes[..48]) != u32_at(bytes, 48) {
            return Err("the header's checksum is wrong".into());
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(format!("version {version} of the file format; this program reads version {VERSION}"));
        }
        let previous_base = u64_at(bytes, 24);
        Ok(Self {
            salt: u32_at(bytes, 12),
            base: u64_at(bytes, 16),
            previous: (previous_base != u64::MAX).then(|| (previous_base, u64_at(bytes, 32))),
            last_time: u64_at(bytes, 40) as i64,
        })
    }
}

/// How many bytes a record's frame takes.
pub fn frame_length(content: &Content) -> usize {
    FRAME + content_length(content)
}

/// How many bytes a record's key and value take.
pub fn content_length(content: &Content) -> usize {
    match content {
        Content::Event { key, value } => key.as_ref().map_or(0, Bytes::len) + value.len(),
        Content::Marker(_) => 8,
    }
}

/// Appends a record's frame to a buffer. Its content must not be longer than [`MAX_CONTENT`].
pub fn encode(to: &mut BytesMut, salt: u32, group_start: bool, offset: Offset, append_time: i64, content: &Content) {
    let start = to.len();
    let mut flags = if group_start { GROUP_START } else { 0 };
    let (key, number, value): (&[u8], _, &[u8]);
    match content {
        Content::Event { key: event_key, value: event_value } => {
            flags |= if event_key.is_some() { KEY } else { 0 };
            key = event_key.as_deref().unwrap_or_default();
            value = event_value;
        }
        Content::Marker(marker) => {
            flags |= MARKER;
            key = &[];
            number = marker.to_le_bytes();
            value = &number;
        }
    }
    to.put_u32_le((key.len() + value.len()) as u32);
    to.put_u8(flags);
    to.put_u64_le(offset);
    to.put_i64_le(append_time);
    to.put_u32_le(key.len() as u32);
    let head_crc = head_checksum(salt, &to[start..]);
    to.put_u32_le(head_crc);
    to.put_u32_le(content_checksum(head_crc, [key, value]));
    to.put_slice(key);
    to.put_slice(value);
}

/// A frame as it was read.
#[derive(Debug)]
pub struct Frame {
    /// Its record; key and value are slices of the bytes it was read from.
    pub record: Record,
    /// How many bytes it takes.
    pub length: usize,
}

/// What stands at a place where a frame is due.
#[derive(Debug)]
pub enum Decoded {
    /// A frame.
    Frame(Frame),
    /// The beginning of what may be a frame of at least this many bytes.
    Incomplete(usize),
    /// Not a frame, and why.
    Bad(&'static str),
}

/// Reads the frame at the start of `bytes`.
pub fn decode(bytes: &Bytes, salt: u32) -> Decoded {
    if bytes.len() < FRAME {
        return Decoded::Incomplete(FRAME);
    }
    if !is_head(bytes, salt) {
        return Decoded::Bad("the checksum of the frame's head is wrong");
    }
    let content_length = u32_at(bytes, 0) as usize;
    let key_length = u32_at(bytes, 21) as usize;
    if content_length > MAX_CONTENT || key_length > content_length {
        return Decoded::Bad("the lengths in the frame cannot be");
    }
    let length = FRAME + content_length;
    if bytes.len() < length {
        return Decoded::Incomplete(length);
    }
    if content_checksum(u32_at(bytes, 25), [&bytes[FRAME..length]]) != u32_at(bytes, 29) {
        return Decoded::Bad("the checksum of the record is wrong");
    }
    let flags = bytes[4];
    let value_start = FRAME + key_length;
    let content = match flags & !GROUP_START {
        MARKER if key_length == 0 && content_length == 8 => Content::Marker(u64_at(bytes, FRAME)),
        0 if key_length == 0 => Content::Event { key: None, value: bytes.slice(FRAME..length) },
        KEY => Content::Event { key: Some(bytes.slice(FRAME..value_start)), value: bytes.slice(value_start..length) },
        _ => return Decoded::Bad("the flags of the frame cannot be"),
    };
    let record = Record { offset: u64_at(bytes, 5), append_time: u64_at(bytes, 13) as i64, content };
    Decoded::Frame(Frame { record, length })
}

/// Whether `head` is the head of a frame with an offset in `offsets`; with `group`, of one that begins a group.
pub fn is_head_within(head: &[u8], salt: u32, group: bool, offsets: &Range<Offset>) -> bool {
    // The checksum last: almost no place in a file gets that far.
    head.len() >= FRAME
        && (!group || head[4] & GROUP_START != 0)
        && offsets.contains(&u64_at(head, 5))
        && is_head(head, salt)
}

fn is_head(frame: &[u8], salt: u32) -> bool {
    head_checksum(salt, frame) == u32_at(frame, 25)
}

fn head_checksum(salt: u32, frame: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&salt.to_le_bytes());
    crc.update(&frame[..25]);
    crc.finalize()
}

/// The checksum of key and value, bound to the head so that a head never goes with another frame's content.
fn content_checksum<const N: usize>(head_crc: u32, content: [&[u8]; N]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head_crc.to_le_bytes());
    for part in content {
        crc.update(part);
    }
    crc.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// What was encoded as `frame`, as slices of it.
pub fn content_in(frame: &Bytes, content: &Content) -> Content {
    match content {
        Content::Marker(number) => Content::Marker(*number),
        Content::Event { key, .. } => {
            let value_start = FRAME + key.as_ref().map_or(0, Bytes::len);
            Content::Event {
                key: key.as_ref().map(|_| frame.slice(FRAME..value_start)),
                value: frame.slice(value_start..),
            }
        }
    }
}
