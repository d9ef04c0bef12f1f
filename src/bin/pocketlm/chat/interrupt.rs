//! Ctrl-C stops the answer that is being written. At other times only a second Ctrl-C ends the
//! program: the first may have been meant for an answer that had just ended, and ending the program
//! loses the conversation.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::output::{Outcome, failure, note};

/// Nothing is being written.
const IDLE: u8 = 0;
/// An answer is being written.
const ANSWERING: u8 = 1;
/// The answer is to stop.
const STOPPING: u8 = 2;
/// Nothing is being written, and the next Ctrl-C ends the program.
const ENDING: u8 = 3;

static STATE: AtomicU8 = AtomicU8::new(IDLE);

/// Catches Ctrl-C from now on.
pub fn catch() -> Outcome {
    let handler = || {
        if pressed() {
            note("");
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler).map_err(|error| failure(format_args!("Ctrl-C: {error}")))
}

/// Handles Ctrl-C, which comes as a signal or from the line editor. Returns true if the program
/// should end.
pub fn pressed() -> bool {
    let next = |state| match state {
        ANSWERING => Some(STOPPING),
        IDLE => Some(ENDING),
        _ => None,
    };
    match STATE.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next) {
        Ok(IDLE) => note("Ctrl-C again, or Ctrl-D, ends the conversation"),
        Ok(_) => {}
        Err(_) => return true,
    }
    false
}

/// The user typed something, so an earlier Ctrl-C no longer counts as the first of two.
pub fn forget() {
    STATE.store(IDLE, Ordering::SeqCst);
}

/// An answer that is being written. While this value exists, Ctrl-C stops the answer.
pub struct Answer(());

impl Answer {
    pub fn begin() -> Answer {
        STATE.store(ANSWERING, Ordering::SeqCst);
        Answer(())
    }

    /// Whether the user asked it to stop.
    pub fn is_stopped(&self) -> bool {
        STATE.load(Ordering::SeqCst) == STOPPING
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let after = if self.is_stopped() { ENDING } else { IDLE };
        STATE.store(after, Ordering::SeqCst);
    }
}
