//! Inference beside another task: no slice is longer than the watchdog's patience, and the text is
//! the host's.

use crate::board::{Board, M4F, RV32IMAFC};

fn no_slice_overruns(board: &Board) {
    if !board.is_here("that slices leave time for a watchdog") {
        return;
    }
    // The program fails when something took longer than its deadline.
    let printed = board.run("watchdog", &[]);
    let (text, cost) = printed.trim_end().rsplit_once('\n').unwrap();
    println!("{}: {cost}", board.name);
    assert!(
        include_str!("../data/story.txt").starts_with(text),
        "{}: {text}",
        board.name
    );
    let feeds = cost
        .strip_prefix("cost feeds ")
        .and_then(|rest| rest.split(' ').next())
        .unwrap();
    assert!(
        feeds.parse::<u32>().unwrap() > 1000,
        "{}: {cost}",
        board.name
    );
}

#[test]
fn slices_leave_a_cortex_m4f_time_for_its_watchdog() {
    no_slice_overruns(&M4F);
}

#[test]
fn slices_leave_rv32imafc_time_for_its_watchdog() {
    no_slice_overruns(&RV32IMAFC);
}
