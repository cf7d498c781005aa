//! What a decision costs, in time and in instructions, against the number of back-ends, of requests
//! that wait, and of connections that live, for each way to balance. The aim is 300 ns, whatever
//! there is of these.
//!
//! A decision is one input (a SYN, or the end of a connection) with every command that follows from
//! it, the deadlines that are due, and the removal of the flow that has lingered. Where the state
//! is to stay the same, a run is two decisions. Rows are measured in turn, in rounds; the median
//! is printed with the least.
//!
//! With `--guarded` only the instructions of a few rows are counted: what `cargo xtask lint`
//! compares. With `--times` nothing is counted, which takes most of the time.

mod callgrind;
mod row;
mod stream;

use core::time::Duration;
use std::time::Instant;

use dispatcher_decisions::admission::{BackendState, Balance};

use row::{Kind, Prepared, Row};
use stream::{Pool, Size, Stream};

/// Runs in a round of one row; so many that what other rows left in the caches is soon gone.
const RUNS: u32 = 10_000;
/// Rounds of all rows; odd, for the median.
const ROUNDS: usize = 21;
/// Times that a hash table is made anew; odd, for the median.
const REMAKES: usize = 101;

fn main() {
    if let Some(row) = callgrind::watched() {
        callgrind::run_watched(&row);
    } else if std::env::args().any(|one| one == "--guarded") {
        print_guarded();
    } else {
        let counting = !std::env::args().any(|one| one == "--times");
        print_rows(counting);
        print_remakes();
    }
}

/// Names and counts, one a line.
fn print_guarded() {
    std::thread::scope(|scope| {
        let count = |(name, row): (_, Row)| (name, scope.spawn(move || callgrind::count(&row)));
        for (name, counted) in Row::guarded().map(count) {
            let count = counted.join().expect("callgrind has counted");
            println!("{name} {count:.0}");
        }
    });
}

fn print_rows(counting: bool) {
    let rows = Row::all();
    let times = times(&rows);
    println!(
        "| a decision | balance | back-ends | queue | flows | ns | least | instructions |\n\
         |---|---|--:|--:|--:|--:|--:|--:|"
    );
    for (row, (median, least)) in rows.iter().zip(times) {
        let Row { kind, pool, size } = row;
        let Size {
            backends, flows, ..
        } = size;
        let queue = if *kind == Kind::Admit { 0 } else { size.queue };
        let count = if counting {
            format!("{:.0}", callgrind::count(row))
        } else {
            String::new()
        };
        println!(
            "| {} | {} | {backends} | {queue} | {flows} | {median:.0} | {least:.0} | {count} |",
            kind.name(),
            pool.name
        );
    }
}

/// Nanoseconds a decision of each row: the median and the least.
fn times(rows: &[Row]) -> Vec<(f64, f64)> {
    let mut prepared: Vec<_> = rows.iter().map(Row::prepare).collect();
    let mut measured = vec![Vec::new(); rows.len()];
    for _ in 0..ROUNDS {
        for (one, measured) in prepared.iter_mut().zip(&mut measured) {
            measured.push(one.time(RUNS));
        }
    }
    prepared.iter().for_each(Prepared::check);
    let sorted = measured.into_iter().map(|mut all| {
        all.sort_by(f64::total_cmp);
        (all[ROUNDS / 2], all[0])
    });
    sorted.collect()
}

fn print_remakes() {
    println!();
    for backends in [2, 40, 1024] {
        let (median, least) = remake(backends);
        println!("hash table made anew, {backends} back-ends: {median:.0} us, least {least:.0} us");
    }
}

/// The request for which the hash table is made anew, because a back-end went down or came up;
/// microseconds, the median and the least.
fn remake(backends: u32) -> (f64, f64) {
    let size = Size {
        backends,
        queue: 0,
        flows: 1024,
        apart: Duration::from_micros(15),
    };
    let pool = Pool::new("source-hash", Balance::SourceHash);
    let mut stream = Stream::new(pool, size, 4096);
    let mut measured: Vec<_> = [BackendState::Down, BackendState::Up]
        .into_iter()
        .cycle()
        .take(REMAKES)
        .map(|state| {
            stream.set_state(backends / 2, state);
            let start = Instant::now();
            stream.request();
            start.elapsed().as_nanos() as f64 / 1000.0
        })
        .collect();
    measured.sort_by(f64::total_cmp);
    (measured[REMAKES / 2], measured[0])
}
