//! Columns of text, as wide as they need to be.
//!
//! Deliberately not here: what is in them.

use std::fmt::Write;

/// How a column is aligned.
#[derive(Clone, Copy)]
pub(super) enum Align {
    Left,
    Right,
}

/// Sets `rows` below `head`. All rows have as many cells as there are columns.
pub(super) fn render<const N: usize>(head: [(&str, Align); N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].0.len()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    let titles = head.map(|(title, _)| title.to_owned());
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths[column] - cell.chars().count());
            match head[column].1 {
                Align::Left => line.extend([cell, &padding, "  "]),
                Align::Right => line.extend([&padding, cell.as_str(), "  "]),
            }
        }
        writeln!(text, "{}", line.trim_end()).ok();
    }
    text
}
