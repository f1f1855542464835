//! Tables for a terminal, and JSON objects that keep the order of their members.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// A JSON object as it was written: a row, its columns in the order of the view's `SELECT`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row(pub Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Row;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Row(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A value as a person reads it.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        // A line break or an escape sequence in the data must not get at the terminal.
        Value::String(text) => {
            text.chars().flat_map(|c| if is_harmless(c) { vec![c] } else { c.escape_unicode().collect() }).collect()
        }
        other => other.to_string(),
    }
}

/// Whether a character stands for itself: no control character, and none that turns the direction of writing.
fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// How many characters of a value stand in a table.
const CELL: usize = 80;

/// A value as it stands in a table: a null is told from an empty text, and what is long is cut.
fn cell(value: &Value) -> String {
    let text = if value.is_null() { "–".to_owned() } else { shown(value) };
    match text.char_indices().nth(CELL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Aligned columns under a header: numbers to the right, everything else to the left.
#[derive(Debug, Clone, Default)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Line>,
}

#[derive(Debug, Clone)]
enum Line {
    Cells(Vec<(String, bool)>),
    Note(String),
}

impl Table {
    /// A table with these columns.
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self { header: header.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Value>) {
        let cells = cells.into_iter().map(|value| (cell(&value), value.is_number() || value.is_null())).collect();
        self.rows.push(Line::Cells(cells));
    }

    /// Adds a row of empty cells where there is nothing: a part of the row above it.
    pub fn part(&mut self, cells: impl IntoIterator<Item = Option<Value>>) {
        let cells = cells.into_iter().map(|value| match value {
            Some(value) => (cell(&value), value.is_number() || value.is_null()),
            None => (String::new(), false),
        });
        self.rows.push(Line::Cells(cells.collect()));
    }

    /// Adds a line that is no row, indented.
    pub fn note(&mut self, text: impl Into<String>) {
        self.rows.push(Line::Note(text.into()));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths: Vec<usize> = self.header.iter().map(|name| name.chars().count()).collect();
        let mut numbers = vec![true; self.header.len()];
        for line in &self.rows {
            let Line::Cells(cells) = line else { continue };
            for (index, (text, is_number)) in cells.iter().enumerate().take(widths.len()) {
                widths[index] = widths[index].max(text.chars().count());
                numbers[index] &= *is_number || text.is_empty();
            }
        }
        let write = |f: &mut fmt::Formatter<'_>, cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for (index, cell) in cells.enumerate().take(widths.len()) {
                let pad = " ".repeat(widths[index] - cell.chars().count());
                let (before, after) = if numbers[index] { (pad.as_str(), "") } else { ("", pad.as_str()) };
                line.push_str(&format!("{}{before}{cell}{after}", if index == 0 { "" } else { "  " }));
            }
            writeln!(f, "{}", line.trim_end())
        };
        write(f, &mut self.header.iter().map(String::as_str))?;
        let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        write(f, &mut rule.iter().map(String::as_str))?;
        for line in &self.rows {
            match line {
                Line::Cells(cells) => write(f, &mut cells.iter().map(|(text, _)| text.as_str()))?,
                Line::Note(text) => writeln!(f, "    {text}")?,
            }
        }
        Ok(())
    }
}
