//! What goes to stderr: notes, errors, progress. Nothing here can fail.

use caffec::diag::{Diagnostic, Sources};
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// One message; a closed stderr is no reason to stop.
pub fn say(message: &str) {
    let _ = writeln!(io::stderr(), "{message}");
}

/// Things to know about the net, though nothing is wrong.
pub fn notes(sources: &Sources, notes: &[Diagnostic]) {
    for note in notes {
        say(&sources.render_note(note));
    }
}

/// A line that tells what is going on: on a terminal, after a second.
pub struct Progress {
    bar: ProgressBar,
    /// Dropped when the work is done, which wakes the waiting thread.
    done: Option<mpsc::Sender<()>>,
}

impl Progress {
    pub fn new(doing: &str) -> Progress {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_message(doing.to_string());
        let (done, waiting) = mpsc::channel();
        let shown = bar.clone();
        thread::spawn(move || {
            let second = Duration::from_secs(1);
            if waiting.recv_timeout(second) == Err(RecvTimeoutError::Timeout) {
                shown.set_draw_target(ProgressDrawTarget::stderr());
                shown.enable_steady_tick(Duration::from_millis(120));
            }
        });
        Progress {
            bar,
            done: Some(done),
        }
    }

    pub fn now(&self, doing: impl Into<String>) {
        self.bar.set_message(doing.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.done = None;
        self.bar.finish_and_clear();
    }
}
