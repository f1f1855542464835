//! Where the events of a body begin and end. What they hold is the encoder's to judge.

use std::ops::Range;

use serde::de::IgnoredAny;

/// How many events one body may have: each costs memory of its own, however short it is. Splitting stops one past it.
pub const MAX_EVENTS: usize = 1 << 18;

/// The events of a JSON body: the items of an array, or the one value there is.
///
/// # Errors
///
/// When the body as a whole is no JSON.
pub fn json(body: &[u8]) -> Result<Vec<Range<usize>>, serde_json::Error> {
    let start = skip_space(body, 0);
    if body.get(start) != Some(&b'[') {
        serde_json::from_slice::<IgnoredAny>(body)?;
        return Ok(vec![start..trim_end(body)]);
    }
    match items(body, start + 1) {
        Some(items) => Ok(items),
        // The parser says where and why better than the splitter could.
        None => serde_json::from_slice::<IgnoredAny>(body).map(|_| vec![start..trim_end(body)]),
    }
}

/// The items of an array whose `[` stands before `at`; `None` when it is not one.
fn items(body: &[u8], mut at: usize) -> Option<Vec<Range<usize>>> {
    let mut items = Vec::new();
    at = skip_space(body, at);
    if body.get(at) == Some(&b']') {
        return is_end(body, at + 1).then_some(items);
    }
    loop {
        at = skip_space(body, at);
        let mut values = serde_json::Deserializer::from_slice(body.get(at..)?).into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        let end = at + values.byte_offset();
        items.push(at..end);
        if items.len() > MAX_EVENTS {
            return Some(items);
        }
        at = skip_space(body, end);
        match body.get(at)? {
            b',' => at += 1,
            b']' => return is_end(body, at + 1).then_some(items),
            _ => return None,
        }
    }
}

/// The lines of an NDJSON body that are not blank.
pub fn lines(body: &[u8]) -> Vec<Range<usize>> {
    let mut lines = Vec::new();
    let mut start = 0;
    for line in body.split(|byte| *byte == b'\n') {
        let end = start + line.len();
        if skip_space(&body[..end], start) < end {
            lines.push(start..end);
            if lines.len() > MAX_EVENTS {
                break;
            }
        }
        start = end + 1;
    }
    lines
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn skip_space(body: &[u8], from: usize) -> usize {
    let rest = body.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|byte| is_space(**byte)).count()
}

fn trim_end(body: &[u8]) -> usize {
    body.len() - body.iter().rev().take_while(|byte| is_space(**byte)).count()
}

fn is_end(body: &[u8], at: usize) -> bool {
    skip_space(body, at) == body.len()
}
