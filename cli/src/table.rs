//! A table in aligned columns, without frames: easy to read, easy to cut.

use crate::output::{Output, Tone, one_line};

/// LIMIT: characters in one cell, so that one long text does not make all lines wrap.
const CELL_CHARS_MAX: usize = 48;

/// Rows below a head. Cells are plain text; each has a tone.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with as many cells as the head has.
    pub(crate) fn row(&mut self, cells: Vec<(String, Tone)>) {
        let cells = cells.into_iter().map(|(text, tone)| (one_line(&text, CELL_CHARS_MAX), tone));
        self.rows.push(cells.collect());
    }

    /// The table as lines.
    pub(crate) fn lines(&self, output: &Output) -> Vec<String> {
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                let widest = cells.map(|(text, _)| text.chars().count()).max().unwrap_or(0);
                widest.max(self.head.get(column).map_or(0, |head| head.chars().count()))
            })
            .collect();
        let head = self.head.iter().map(|head| ((*head).to_owned(), Tone::Faint)).collect::<Vec<_>>();
        let line = |cells: &[(String, Tone)]| {
            let mut line = String::new();
            for (index, ((text, tone), width)) in cells.iter().zip(&widths).enumerate() {
                line.push_str(&output.paint(*tone, text));
                if index + 1 < cells.len() {
                    let gap = width.saturating_sub(text.chars().count()) + 2;
                    line.extend(std::iter::repeat_n(' ', gap));
                }
            }
            line
        };
        std::iter::once(line(&head)).chain(self.rows.iter().map(|row| line(row))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["child", "end"]);
        table.row(vec![("a".into(), Tone::Plain), ("finished".into(), Tone::Good)]);
        table.row(vec![("a-long-name".into(), Tone::Plain), ("x".into(), Tone::Bad)]);
        let lines = table.lines(&Output::new(true));
        assert_eq!(lines, ["child        end", "a            finished", "a-long-name  x"]);
    }
}
