//! The one table that is printed at the end.

/// One line.
#[derive(Debug)]
struct Row {
    cells: [String; 6],
}

/// All lines so far.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
    notes: Vec<String>,
}

/// What a figure is to be.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// Nothing: the figure is there to be known.
    None,
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

/// A line to be.
pub struct Measured<'a> {
    /// What was measured.
    pub what: &'a str,
    /// What it came to.
    pub measured: String,
    /// What it is compared with.
    pub reference: String,
    /// The ratio, or the figure that the target is about, and its unit.
    pub figure: (f64, &'a str),
    /// The target, in the figure's unit.
    pub target: Target,
}

const HEADS: [&str; 6] = ["what", "measured", "reference", "figure", "target", "met"];

impl Table {
    /// Adds a line, and says it at once.
    pub fn add(&mut self, measured: Measured<'_>) {
        let (figure, unit) = measured.figure;
        let show = |value: f64| {
            let digits = if value.abs() < 10.0 { 3 } else { 0 };
            format!("{value:.digits$} {unit}").trim_end().to_owned()
        };
        let (target, met) = match measured.target {
            Target::None => (String::new(), String::new()),
            Target::AtLeast(least) => (format!("≥ {}", show(least)), yes_or_no(figure >= least)),
            Target::AtMost(most) => (format!("≤ {}", show(most)), yes_or_no(figure <= most)),
        };
        let cells = [measured.what.to_owned(), measured.measured, measured.reference, show(figure), target, met];
        eprintln!("  → {}", cells.iter().filter(|cell| !cell.is_empty()).cloned().collect::<Vec<_>>().join(" | "));
        self.rows.push(Row { cells });
    }

    /// Adds a remark below the table.
    pub fn note(&mut self, note: String) {
        eprintln!("  {note}");
        self.notes.push(note);
    }

    /// The table, as it is shown: also Markdown.
    pub fn text(&self) -> String {
        let heads = HEADS.map(str::to_owned);
        let lines: Vec<&[String; 6]> = std::iter::once(&heads).chain(self.rows.iter().map(|row| &row.cells)).collect();
        let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
        let mut text = String::new();
        for (index, cells) in lines.iter().enumerate() {
            for (cell, width) in cells.iter().zip(&widths) {
                text.push_str(&format!("| {cell:<width$} "));
            }
            text.push_str("|\n");
            if index == 0 {
                for width in &widths {
                    text.push_str(&format!("|{:-<1$}", "", width + 2));
                }
                text.push_str("|\n");
            }
        }
        for note in &self.notes {
            text.push_str(&format!("\n- {note}"));
        }
        text
    }
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}
