//! Reading single values of a datum, each of them checked. What is rejected, and why, is decided here for all who read.
//!
//! These few lines run for every field of every event. They are inlined by force, and what goes wrong is made up out of line:
//! so the rest of the datum stays in registers from field to field, which takes a tenth off the speed layer's time.

use crate::encode::path::Problem;
use crate::encode::wire::{get_bytes, get_exact, get_int, get_long};

type Read<T> = Result<T, Box<Problem>>;

pub(super) fn fail<T>(reason: impl Into<String>) -> Read<T> {
    Err(Box::new(Problem::new(reason)))
}

#[cold]
pub(super) fn cut_short() -> Box<Problem> {
    Box::new(Problem::new("cut short, or not a value of its type"))
}

#[inline(always)]
pub(super) fn boolean(input: &mut &[u8]) -> Read<bool> {
    match exact(input, 1)? {
        [0] => Ok(false),
        [1] => Ok(true),
        other => fail(format!("a boolean of {}", other[0])),
    }
}

#[inline(always)]
pub(super) fn int(input: &mut &[u8]) -> Read<i32> {
    get_int(input).ok_or_else(cut_short)
}

#[inline(always)]
pub(super) fn long(input: &mut &[u8]) -> Read<i64> {
    get_long(input).ok_or_else(cut_short)
}

/// A long between these, both included.
#[inline(always)]
pub(super) fn timestamp(input: &mut &[u8], least: i64, most: i64) -> Read<i64> {
    let value = long(input)?;
    if value < least || value > most {
        return fail(format!("the timestamp {value} is not within the years 1678 to 2261"));
    }
    Ok(value)
}

#[inline(always)]
pub(super) fn float(input: &mut &[u8]) -> Read<f32> {
    let (bytes, rest) = input.split_first_chunk::<4>().ok_or_else(cut_short)?;
    *input = rest;
    Ok(f32::from_le_bytes(*bytes))
}

#[inline(always)]
pub(super) fn double(input: &mut &[u8]) -> Read<f64> {
    let (bytes, rest) = input.split_first_chunk::<8>().ok_or_else(cut_short)?;
    *input = rest;
    Ok(f64::from_le_bytes(*bytes))
}

#[inline(always)]
pub(super) fn exact<'a>(input: &mut &'a [u8], count: usize) -> Read<&'a [u8]> {
    get_exact(input, count).ok_or_else(cut_short)
}

#[inline(always)]
pub(super) fn bytes<'a>(input: &mut &'a [u8]) -> Read<&'a [u8]> {
    get_bytes(input).ok_or_else(cut_short)
}

/// The bytes of a string, which are UTF-8.
#[inline(always)]
pub(super) fn text<'a>(input: &mut &'a [u8]) -> Read<&'a [u8]> {
    let bytes = bytes(input)?;
    // Most text is ASCII.
    if is_ascii(bytes) { Ok(bytes) } else { not_ascii(bytes) }
}

#[cold]
fn not_ascii(bytes: &[u8]) -> Read<&[u8]> {
    if std::str::from_utf8(bytes).is_err() {
        return fail("a string that is not UTF-8");
    }
    Ok(bytes)
}

/// Which of so many branches of a union, or symbols of an enum, it is; the caller says what is wrong otherwise.
#[inline(always)]
pub(super) fn index(input: &mut &[u8], count: usize) -> Read<Result<usize, i32>> {
    let index = int(input)?;
    Ok(usize::try_from(index).ok().filter(|index| *index < count).ok_or(index))
}

#[cold]
pub(super) fn no_branch<T>(index: i32, branches: usize) -> Read<T> {
    fail(format!("branch {index} of {branches}"))
}

#[cold]
pub(super) fn no_symbol<T>(index: i32, symbols: usize) -> Read<T> {
    fail(format!("symbol {index} of {symbols}"))
}

/// Whether no byte has its highest bit set. What is left over of whole words is covered by one that overlaps them: that is
/// simpler than counting, and most text is short.
#[inline(always)]
fn is_ascii(bytes: &[u8]) -> bool {
    let all = if let Some(last) = bytes.last_chunk::<16>() {
        let words = bytes.as_chunks::<16>().0.iter().map(|word| u128::from_ne_bytes(*word));
        words.fold(u128::from_ne_bytes(*last), |all, word| all | word)
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        u128::from(u64::from_ne_bytes(*first) | u64::from_ne_bytes(*last))
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        u128::from(u32::from_ne_bytes(*first) | u32::from_ne_bytes(*last))
    } else {
        u128::from(bytes.iter().fold(0, |all, byte| all | byte))
    };
    all & 0x8080_8080_8080_8080_8080_8080_8080_8080 == 0
}
