//! How long a daemon takes to start over flows that an earlier one left: 1, 100 000 and 1 000 000
//! established connections of two back-ends. `cargo bench -p dispatcher-tests --bench adoption`
//!
//! Measured is from the start of the process until it answers over its admin socket, and what time
//! on a processor that took; on a busy machine only the latter means something.

use dispatcher_tests::adoption;

const SIZES: [u32; 3] = [1, 100_000, 1_000_000];
const ROUNDS: usize = 3;

fn main() {
    for size in SIZES {
        for start in adoption::starts(size, ROUNDS).unwrap() {
            println!(
                "{size:9} flows: {:?} to the first answer, {:?} of a processor, {} MiB",
                start.ready,
                start.used,
                start.memory_peak >> 20
            );
        }
    }
}
