//! What people see while they wait: a line that says what is happening, gone when it is done.

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Progress of one long piece of work. Silent where standard error is no terminal, but for one line
/// per step.
pub struct Progress {
    bar: ProgressBar,
    terminal: bool,
    quiet: bool,
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            None,
            match terminal && !quiet {
                true => ProgressDrawTarget::stderr(),
                false => ProgressDrawTarget::hidden(),
            },
        );
        bar.enable_steady_tick(Duration::from_millis(100));
        Self {
            bar,
            terminal,
            quiet,
        }
    }

    /// One line per step where there is no bar. A terminal that was closed can't be told.
    fn say_once(&self, what: &str) {
        if !self.terminal && !self.quiet && self.bar.message() != what {
            let _ = writeln!(std::io::stderr(), "{what}");
        }
    }

    /// A step whose length nobody knows.
    pub fn step(&self, what: impl Into<String>) {
        let what = what.into();
        self.say_once(&what);
        self.bar.unset_length();
        self.bar.set_style(style("{spinner} {msg} {elapsed:>.dim}"));
        self.bar.set_message(what);
    }

    /// A step of which `done` of `total` are done.
    pub fn part(&self, what: impl Into<String>, done: u64, total: u64) {
        let what = what.into();
        self.say_once(&what);
        if total == 0 {
            return self.step(what);
        }
        self.bar.set_style(
            style("{spinner} {msg} [{bar:30}] {percent:>3} % {elapsed:>.dim}{left:.dim}")
                .with_key("left", left),
        );
        self.bar.set_length(total);
        self.bar.set_position(done.min(total));
        self.bar.set_message(what);
    }

    pub fn done(&self, what: impl Into<String>) {
        let what = what.into();
        if !self.quiet {
            self.bar
                .suspend(|| writeln!(std::io::stderr(), "{what}").unwrap_or(()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// An estimate from what is done so far; nothing before something is.
fn left(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    let seconds = state.eta().as_secs();
    if state.pos() > 0 && seconds > 0 {
        // A bar that can't be drawn is no reason to fail.
        let _ = write!(out, ", about {} left", HumanDuration(state.eta()));
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
