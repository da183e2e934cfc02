// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The live view.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use ratatui::{
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Modifier, Style, Stylize},
    text::{Line as Text, Span},
    widgets::{Block, Cell, Gauge, Paragraph, Row, Sparkline, Table, TableState},
    Frame,
};

use super::{short, Functions, Line, HEADINGS};
use crate::units::{self, float};

/// Intervals that are remembered of each function.
const HISTORY: usize = 200;

/// What is shown.
#[derive(Default)]
struct View {
    lines: Vec<Line>,
    selected: usize,
    /// Device faults a second, of each node, the newest last.
    history: BTreeMap<u32, VecDeque<u64>>,
}

/// What a key does.
#[derive(Debug, PartialEq, Eq)]
enum Key {
    Quit,
    Up,
    Down,
    Other,
}

fn key(code: KeyCode, modifiers: KeyModifiers) -> Key {
    match code {
        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
        KeyCode::Up | KeyCode::Char('k') => Key::Up,
        KeyCode::Down | KeyCode::Char('j') => Key::Down,
        _ => Key::Other,
    }
}

impl View {
    fn update(&mut self, lines: Vec<Line>) {
        for line in &lines {
            let history = self.history.entry(line.node).or_default();
            // Rates are positive and far below 2^63.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            history.push_back(line.device_faults_per_s as u64);
            if history.len() > HISTORY {
                history.pop_front();
            }
        }
        self.lines = lines;
        self.step(0);
    }

    fn step(&mut self, by: isize) {
        let last = self.lines.len().saturating_sub(1);
        self.selected = self.selected.saturating_add_signed(by).min(last);
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let rows = u16::try_from(self.lines.len()).unwrap_or(u16::MAX);
        let [head, table, below, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Max(rows.saturating_add(1)),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget("vfetch top: faults, pages and MB a second".bold(), head);
        self.draw_table(frame, table);
        if let Some(line) = self.lines.get(self.selected) {
            self.draw_function(frame, below, line);
        }
        frame.render_widget("q quits, up and down choose a function".dim(), foot);
    }

    fn draw_table(&self, frame: &mut Frame<'_>, area: Rect) {
        let text = |cell: String, heading: &str| {
            let alignment = if heading.starts_with('>') {
                Alignment::Right
            } else {
                Alignment::Left
            };
            Cell::from(Text::from(cell).alignment(alignment))
        };
        let headings = HEADINGS.map(|h| text(h.trim_start_matches('>').into(), h));
        let rows = self.lines.iter().map(|line| {
            let cells = line.cells().into_iter().zip(HEADINGS);
            Row::new(cells.map(|(cell, heading)| text(cell, heading)))
        });
        let widths = [8, 9, 7, 8, 7, 5, 7, 5, 5, 10].map(Constraint::Length);
        let table = Table::new(rows, widths)
            .header(Row::new(headings).style(Style::new().add_modifier(Modifier::REVERSED)))
            .row_highlight_style(Style::new().bold());
        let mut state = TableState::new().with_selected(self.selected);
        frame.render_stateful_widget(table, area, &mut state);
    }

    fn draw_function(&self, frame: &mut Frame<'_>, area: Rect, line: &Line) {
        let block = Block::bordered().title(format!(" vfetch{}, {} ", line.node, line.policy));
        let inside = block.inner(area);
        frame.render_widget(block, area);
        let [link, device, host, moved, faults] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Min(0),
        ])
        .areas(inside);
        gauge(
            frame,
            link,
            "link",
            line.link_share,
            &units::percent(line.link_share),
        );
        let memory = |used: u64, of: u64| {
            let share = float(used) / float(of.max(1));
            (
                share,
                format!("{} of {}", units::bytes(used), units::bytes(of)),
            )
        };
        let (share, text) = memory(line.device_used_bytes, line.device_bytes);
        gauge(frame, device, "device", share, &text);
        let (share, text) = memory(line.host_used_bytes, line.host_bytes);
        gauge(frame, host, "host", share, &text);
        let text = format!(
            "to device {} MB/s, to host {} MB/s, late {} pages/s",
            units::three_digits(line.to_device_megabytes_per_s),
            units::three_digits(line.to_host_megabytes_per_s),
            short(line.late_pages_per_s)
        );
        frame.render_widget(Paragraph::new(text), moved);
        let history = self.history.get(&line.node);
        let width = usize::from(faults.width);
        let newest = history.map_or(0, |h| h.len().saturating_sub(width));
        let shown: Vec<u64> = history
            .into_iter()
            .flatten()
            .skip(newest)
            .copied()
            .collect();
        let most = shown.iter().max().copied().unwrap_or(0);
        let title = format!("device faults, at most {}/s", short(float(most)));
        let sparkline = Sparkline::default()
            .block(Block::new().title(Span::from(title).dim()))
            .data(shown);
        frame.render_widget(sparkline, faults);
    }
}

/// A share as a bar, with words before and in it.
fn gauge(frame: &mut Frame<'_>, area: Rect, name: &str, share: f64, text: &str) {
    let [label, bar] = Layout::horizontal([Constraint::Length(8), Constraint::Min(0)]).areas(area);
    frame.render_widget(name, label);
    let gauge = Gauge::default()
        .ratio(share.clamp(0.0, 1.0))
        .label(text.to_owned())
        .use_unicode(true);
    frame.render_widget(gauge, bar);
}

/// Shows `functions` until somebody has seen enough.
pub(super) fn run(functions: &mut Functions<'_>, interval: Duration) -> Result<()> {
    let mut terminal = ratatui::try_init().context("cannot use the terminal")?;
    let result = (|| {
        let mut view = View::default();
        view.update(functions.lines()?);
        let mut last = Instant::now();
        loop {
            terminal.draw(|frame| view.draw(frame))?;
            let left = interval.saturating_sub(last.elapsed());
            if left.is_zero() {
                view.update(functions.lines()?);
                last = Instant::now();
                continue;
            }
            if !event::poll(left)? {
                continue;
            }
            if let Event::Key(pressed) = event::read()? {
                match key(pressed.code, pressed.modifiers) {
                    _ if pressed.kind == KeyEventKind::Release => {}
                    Key::Quit => return Ok(()),
                    Key::Up => view.step(-1),
                    Key::Down => view.step(1),
                    Key::Other => {}
                }
            }
        }
    })();
    ratatui::restore();
    result
}

#[cfg(test)]
mod tests {
    use ratatui::{backend::TestBackend, Terminal};

    use super::{super::tests::line, *};

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_terminal_shows_all_columns_and_the_chosen_function() {
        let mut view = View::default();
        view.update(vec![line(1), line(2)]);
        view.step(1);
        let text = drawn(&view, 80, 24);
        for part in [
            "device mem",
            "1000/1023M",
            "123k",
            " vfetch2, thrashing-aware ",
            "75 %",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_small_terminal_is_no_failure() {
        let mut view = View::default();
        view.update((0..64).map(line).collect());
        for (width, height) in [(1, 1), (20, 3), (80, 5), (300, 100)] {
            let _ = drawn(&view, width, height);
        }
        let _ = drawn(&View::default(), 80, 24);
    }

    #[test]
    fn choosing_stops_at_both_ends_and_when_functions_go() {
        let mut view = View::default();
        view.update(vec![line(0), line(1), line(2)]);
        view.step(-1);
        assert_eq!(view.selected, 0);
        for _ in 0..5 {
            view.step(1);
        }
        assert_eq!(view.selected, 2);
        view.update(vec![line(0)]);
        assert_eq!(view.selected, 0);
    }

    #[test]
    fn keys_do_what_the_last_line_says() {
        assert_eq!(key(KeyCode::Char('q'), KeyModifiers::NONE), Key::Quit);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Key::Quit);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), Key::Other);
        assert_eq!(key(KeyCode::Down, KeyModifiers::NONE), Key::Down);
    }
}
