//! The elements of a JSON array, one by one, without holding the array: finds where each begins and ends, and leaves it to the
//! server to say whether it is an event.

use std::io::BufRead;

/// Cuts a JSON array into its elements.
pub struct Elements<R> {
    input: R,
    line: u64,
    state: State,
}

enum State {
    Start,
    Inside,
    End,
}

impl<R: BufRead> Elements<R> {
    /// Elements of the array that `input` holds.
    pub fn new(input: R) -> Self {
        Self { input, line: 1, state: State::Start }
    }

    fn byte(&mut self) -> std::io::Result<Option<u8>> {
        let mut byte = [0];
        if self.input.read(&mut byte)? == 0 {
            return Ok(None);
        }
        self.line += u64::from(byte[0] == b'\n');
        Ok(Some(byte[0]))
    }

    /// The next element, with the line it begins in; `None` after the last.
    ///
    /// # Errors
    ///
    /// When reading fails, or the input is not one array.
    pub fn next_element(&mut self) -> std::io::Result<Option<(u64, Vec<u8>)>> {
        let wrong = |line: u64, what: &str| {
            Err(std::io::Error::new(std::io::ErrorKind::InvalidData, format!("line {line}: {what}")))
        };
        if matches!(self.state, State::Start) {
            loop {
                match self.byte()? {
                    Some(b'[') => break,
                    Some(byte) if byte.is_ascii_whitespace() => {}
                    _ => return wrong(self.line, "not a JSON array"),
                }
            }
            self.state = State::Inside;
        }
        if matches!(self.state, State::End) {
            return Ok(None);
        }
        let mut element = Vec::new();
        let mut began = self.line;
        let (mut depth, mut in_string, mut escaped) = (0_u32, false, false);
        loop {
            let Some(byte) = self.byte()? else {
                return wrong(self.line, "the array has no end");
            };
            if !in_string && depth == 0 && matches!(byte, b',' | b']') {
                if byte == b']' {
                    self.state = State::End;
                }
                // `[]` has no element, and neither has the end after a trailing comma.
                return if element.is_empty() && byte == b']' { self.ended() } else { Ok(Some((began, element))) };
            }
            if element.is_empty() {
                if byte.is_ascii_whitespace() {
                    continue;
                }
                began = self.line;
            }
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
                _ => {}
            }
            // A line break inside an element is white space; a space keeps the element on one line.
            element.push(if byte == b'\n' { b' ' } else { byte });
        }
    }

    /// Only white space may follow the array.
    fn ended(&mut self) -> std::io::Result<Option<(u64, Vec<u8>)>> {
        while let Some(byte) = self.byte()? {
            if !byte.is_ascii_whitespace() {
                let message = format!("line {}: something follows the array", self.line);
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message));
            }
        }
        Ok(None)
    }
}
