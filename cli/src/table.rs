//! A table in aligned columns, without frames: easy to read, easy to cut.
//!
//! On a terminal it is never wider than that: the widest columns give way first. In a file or a pipe nothing is cut for width.

use crate::output::{Output, Tone, one_line};

/// LIMIT: characters in one cell, so that one long text does not make all lines wrap.
const CELL_CHARS_MAX: usize = 48;
/// LIMIT: no column is made narrower than this, in characters: less of a name is none. What does not fit then wraps.
const COLUMN_CHARS_MIN: usize = 6;
/// Between two columns.
const GAP: usize = 2;

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
        let widths = self.widths(output.columns());
        let head = self.head.iter().map(|head| ((*head).to_owned(), Tone::Faint)).collect::<Vec<_>>();
        let line = |cells: &[(String, Tone)]| {
            let mut line = String::new();
            for (index, ((text, tone), width)) in cells.iter().zip(&widths).enumerate() {
                let text = one_line(text, *width);
                line.push_str(&output.paint(*tone, &text));
                if index + 1 < cells.len() {
                    let gap = width.saturating_sub(text.chars().count()) + GAP;
                    line.extend(std::iter::repeat_n(' ', gap));
                }
            }
            line
        };
        std::iter::once(line(&head)).chain(self.rows.iter().map(|row| line(row))).collect()
    }

    /// As wide as the widest cells, or, if that is more than `columns`, with the widest made narrower.
    fn widths(&self, columns: Option<usize>) -> Vec<usize> {
        let widest = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(|(text, _)| text.chars().count()).max().unwrap_or(0);
            widest.max(self.head.get(column).map_or(0, |head| head.chars().count()))
        };
        let mut widths: Vec<usize> = (0..self.head.len()).map(widest).collect();
        let gaps = GAP * self.head.len().saturating_sub(1);
        let columns = columns.unwrap_or(usize::MAX);
        while widths.iter().sum::<usize>() + gaps > columns {
            let Some(widest) = widths.iter_mut().max().filter(|widest| **widest > COLUMN_CHARS_MIN) else { break };
            *widest -= 1;
        }
        widths
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

    #[test]
    fn table_is_as_narrow_as_the_terminal_and_no_narrower_than_can_be_read() {
        let mut table = Table::new(&["child", "work", "end"]);
        let cells = ["a-child", &"to sleep for a very long time ".repeat(3), "turn ended: finished"];
        table.row(cells.map(|cell| (cell.to_owned(), Tone::Plain)).to_vec());
        let whole = table.lines(&Output::on_terminal(None));
        assert!(whole[1].ends_with("turn ended: finished") && whole[1].chars().count() > 70, "{whole:?}");
        for columns in 22..100 {
            let lines = table.lines(&Output::on_terminal(Some(columns)));
            assert!(lines.iter().all(|line| line.chars().count() <= columns), "{columns}: {lines:?}");
            assert_eq!(columns >= whole[1].chars().count(), lines == whole, "{columns}: {lines:?}");
        }
        assert_eq!(table.lines(&Output::on_terminal(Some(10)))[1], "a-chi\u{2026}  to sl\u{2026}  turn \u{2026}");
    }
}
