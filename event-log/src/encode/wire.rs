//! Avro's binary primitives and Confluent's framing, written by hand: this is the hot path of every event.

/// A zero byte and the schema id, big-endian.
pub(crate) const FRAME_BYTES: usize = 5;

/// Begins a frame.
pub(crate) fn put_frame(out: &mut Vec<u8>, schema_id: u32) {
    out.push(0);
    out.extend_from_slice(&schema_id.to_be_bytes());
}

/// Takes a frame apart: the schema id and the datum.
pub(crate) fn split_frame(frame: &[u8]) -> Option<(u32, &[u8])> {
    let (magic, rest) = frame.split_first()?;
    let (id, datum) = rest.split_first_chunk::<4>()?;
    (*magic == 0).then(|| (u32::from_be_bytes(*id), datum))
}

/// Writes an `int` or a `long`: zigzag, then seven bits a byte.
#[inline]
pub(crate) fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Writes `bytes` or a `string`.
#[inline]
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}

/// Reads a `long`, and tells nothing of bytes that are not one.
#[inline(always)]
pub(crate) fn get_long(input: &mut &[u8]) -> Option<i64> {
    let (&first, rest) = input.split_first()?;
    if first < 0x80 {
        *input = rest;
        return Some(unzigzag(u64::from(first)));
    }
    let word = input.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    // The highest bit of each byte that is a last one.
    match word.map(|word| (word, !word & 0x8080_8080_8080_8080)) {
        Some((word, lasts)) if lasts != 0 => {
            let bits = lasts.trailing_zeros() + 1;
            *input = &input[bits as usize / 8..];
            Some(unzigzag(sevens(word & (u64::MAX >> (64 - bits)))))
        }
        _ => {
            let (value, rest) = get_long_bytewise(input)?;
            *input = rest;
            Some(value)
        }
    }
}

/// Moves the lower seven bits of each of eight bytes together: pairs of bytes, then pairs of pairs, then both halves.
#[inline(always)]
fn sevens(word: u64) -> u64 {
    let word = word & 0x7f7f_7f7f_7f7f_7f7f;
    let word = (word & 0x007f_007f_007f_007f) | (word & 0x7f00_7f00_7f00_7f00) >> 1;
    let word = (word & 0x0000_3fff_0000_3fff) | (word & 0x3fff_0000_3fff_0000) >> 2;
    (word & 0x0fff_ffff) | (word & 0x0fff_ffff_0000_0000) >> 4
}

/// The same near the end of the input, and for the nine and ten bytes of the largest numbers.
fn get_long_bytewise(mut input: &[u8]) -> Option<(i64, &[u8])> {
    let mut value = 0;
    for shift in (0..=63).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        input = rest;
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some((unzigzag(value), input));
        }
    }
    None
}

/// Reads an `int`: at most five bytes, as every reader of Avro wants it.
#[inline(always)]
pub(crate) fn get_int(input: &mut &[u8]) -> Option<i32> {
    let before = input.len();
    let value = get_long(input)?;
    if before - input.len() > 5 {
        return None;
    }
    i32::try_from(value).ok()
}

/// Reads `count` bytes.
#[inline(always)]
pub(crate) fn get_exact<'a>(input: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(count)?;
    *input = rest;
    Some(taken)
}

/// Reads `bytes` or the bytes of a `string`.
#[inline(always)]
pub(crate) fn get_bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(get_long(input)?).ok()?;
    get_exact(input, length)
}

#[inline(always)]
fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
