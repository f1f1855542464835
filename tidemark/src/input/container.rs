//! Avro object container files, cut into smaller ones that fit into a request: the header again before every few blocks.
//! Nothing is decoded, so every codec passes through.

use std::io::{self, BufRead, Read};

const MAGIC: [u8; 4] = *b"Obj\x01";

/// Cuts a container file at its blocks.
pub struct Container<R> {
    input: R,
    header: Vec<u8>,
    sync: [u8; 16],
    event: u64,
}

/// A container file that is a part of another.
pub struct Piece {
    /// The number of its first event in the whole file, from 1.
    pub first: u64,
    /// How many events it has.
    pub events: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not an Avro container file: {what}"))
}

impl<R: BufRead> Container<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// When reading fails or there is none.
    pub fn open(input: R) -> io::Result<Self> {
        let mut this = Self { input, header: Vec::new(), sync: [0; 16], event: 1 };
        let mut header = this.take(4)?;
        if header != MAGIC {
            return Err(damaged("it does not begin with Obj and a 1"));
        }
        // The metadata: a map of byte strings, in blocks of entries, ended by a block of none.
        loop {
            let entries = this.long(&mut header)?;
            if entries == 0 {
                break;
            }
            if entries < 0 {
                this.long(&mut header)?; // the size in bytes, which a negative count announces
            }
            for _ in 0..2 * entries.unsigned_abs() {
                let len = this.long(&mut header)?;
                let len = usize::try_from(len).map_err(|_| damaged("a negative length"))?;
                header.extend(this.take(len)?);
            }
        }
        let sync = this.take(16)?;
        this.sync.copy_from_slice(&sync);
        header.extend(sync);
        this.header = header;
        Ok(this)
    }

    /// The next piece: whole blocks, as many as it takes to reach `bytes`; `None` at the end.
    ///
    /// # Errors
    ///
    /// When reading fails or the file is damaged.
    pub fn next(&mut self, bytes: usize) -> io::Result<Option<Piece>> {
        let mut piece = Piece { first: self.event, events: 0, bytes: self.header.clone() };
        while piece.bytes.len() < bytes && !self.input.fill_buf()?.is_empty() {
            let events = self.long(&mut piece.bytes)?;
            let len = self.long(&mut piece.bytes)?;
            let (Ok(events), Ok(len)) = (u64::try_from(events), usize::try_from(len)) else {
                return Err(damaged("a negative length"));
            };
            piece.bytes.extend(self.take(len)?);
            let sync = self.take(16)?;
            if sync != self.sync {
                return Err(damaged("a block does not end in the sync marker"));
            }
            piece.bytes.extend(sync);
            piece.events += events;
            self.event += events;
        }
        Ok((piece.events > 0).then_some(piece))
    }

    /// Reads exactly so many bytes, never believing a length before the bytes are there.
    fn take(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len.min(1 << 20));
        self.input.by_ref().take(len as u64).read_to_end(&mut bytes)?;
        if bytes.len() < len { Err(damaged("it is cut off")) } else { Ok(bytes) }
    }

    /// Reads a variable-length number and appends its bytes to `copy`.
    fn long(&mut self, copy: &mut Vec<u8>) -> io::Result<i64> {
        let mut raw = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            copy.push(byte);
            raw |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed());
            }
        }
        Err(damaged("a number of more than ten bytes"))
    }
}
