//! Instructions, counted by callgrind: this program runs itself under it, once for each row. The
//! counts of one executable are the same in each run.

use std::process::Command;

use crate::row::Row;

/// Runs of a row before those that are counted: vectors and tables have grown by then.
const WARM_UP: u32 = 500;
/// Runs of a row that are counted.
const RUNS: u32 = 1000;
/// Before the label of the row that a watched program is to run.
const WATCHED: &str = "--watched=";
/// Before the sum in what callgrind says.
const SUM: &str = "Collected : ";

/// The row that this program is to run under callgrind's eyes, if it is.
pub fn watched() -> Option<Row> {
    let label = std::env::args().find_map(|one| Some(one.strip_prefix(WATCHED)?.to_owned()))?;
    let guarded = Row::guarded().map(|(_, row)| row);
    let mut rows = Row::all().into_iter().chain(guarded);
    rows.find(|row| row.label() == label)
}

/// Runs a row as it is counted; says how many decisions that were.
pub fn run_watched(row: &Row) {
    let mut prepared = row.prepare();
    prepared.run(WARM_UP);
    println!("{}", prepared.run_counted_decisions(RUNS));
    prepared.check();
}

/// Instructions a decision of a row.
pub fn count(row: &Row) -> f64 {
    let program = std::env::current_exe().expect("the path of this program");
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--toggle-collect=*run_counted_decisions*",
            "--callgrind-out-file=/dev/null",
        ])
        .arg(program)
        .arg(format!("{WATCHED}{}", row.label()))
        .output()
        .expect("valgrind, of the package of that name, counts instructions");
    let (said, told) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let sum = told.split_once(SUM).and_then(|(_, rest)| number(rest));
    let decisions = number(&said);
    match (output.status.success(), sum, decisions) {
        (true, Some(sum), Some(decisions)) if sum > 0.0 => sum / decisions,
        _ => panic!("callgrind counted nothing: {told}{said}"),
    }
}

fn number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}
