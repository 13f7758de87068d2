//! Progress on a terminal.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use pfmc_ir::backend::Progress;

/// How much is said on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Nothing.
    Quiet,
    /// A bar with the time that is left, on a terminal only.
    Bar,
    /// Each stage with its time, a line each, wherever stderr goes.
    Stages,
}

/// A progress bar for whatever takes more than a second.
pub struct Bar {
    detail: Detail,
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bar: Option<ProgressBar>,
    stage: Option<(String, Instant)>,
}

impl State {
    /// Ends the stage.
    fn end(&mut self, detail: Detail) {
        if let Some(b) = self.bar.take() {
            b.finish_and_clear();
        }
        if let Some((stage, start)) = self.stage.take()
            && detail == Detail::Stages
        {
            let _ = writeln!(std::io::stderr().lock(), "{stage}: {:.1} s", start.elapsed().as_secs_f64());
        }
    }
}

impl Bar {
    /// Progress at a level of detail.
    pub fn new(detail: Detail) -> Bar {
        let terminal = std::io::stderr().is_terminal();
        Bar { detail, terminal, state: Mutex::new(State::default()) }
    }

    /// How much is said.
    pub fn detail(&self) -> Detail {
        self.detail
    }

    /// Ends the last stage.
    pub fn finish(&self) {
        if let Ok(mut s) = self.state.lock() {
            s.end(self.detail);
        }
    }
}

impl Progress for Bar {
    fn begin(&self, stage: &str, total: u64) {
        let Ok(mut s) = self.state.lock() else { return };
        s.end(self.detail);
        s.stage = Some((stage.to_owned(), Instant::now()));
        if self.detail == Detail::Quiet || !self.terminal {
            return;
        }
        let bar = if total == 0 { ProgressBar::new_spinner() } else { ProgressBar::new(total) };
        let template = if total == 0 {
            "{spinner} {msg} {elapsed}"
        } else {
            "{spinner} {msg:<20} [{bar:30}] {pos}/{len} {elapsed} (left {eta})"
        };
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_message(stage.to_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        s.bar = Some(bar);
    }

    fn advance(&self, steps: u64) {
        if let Ok(s) = self.state.lock()
            && let Some(b) = &s.bar
        {
            b.inc(steps);
        }
    }
}
