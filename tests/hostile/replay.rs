//! Replays the corpus: every input that a fuzzer found worth keeping, each as it is and damaged in
//! a few ways that follow from it alone.

use std::path::Path;
use std::{fs, panic, process};

use dispatcher_hostile::random::Random;
use dispatcher_hostile::targets::TARGETS;

/// Inputs of a target, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{target}: {error}"));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    inputs.sort();
    inputs
}

/// A byte changed, a piece cut out, the rest cut off, or another input's end put there.
fn damaged(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    if bytes.is_empty() {
        return other.to_vec();
    }
    let at = random.below(bytes.len() as u32) as usize;
    match random.below(4) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => drop(bytes.drain(at..(at + 1 + random.below(8) as usize).min(bytes.len()))),
        2 => bytes.truncate(at),
        _ => {
            bytes.truncate(at);
            bytes.extend_from_slice(&other[at.min(other.len())..]);
        }
    }
    bytes
}

#[test]
fn every_input_of_the_corpus_is_survived_as_it_is_and_damaged() {
    // As under libFuzzer: a panic counts on whatever thread it is.
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        tell(panic);
        process::abort();
    }));
    for target in TARGETS {
        let inputs = corpus(target.name);
        assert!(
            inputs.len() >= 10,
            "{}: {} inputs",
            target.name,
            inputs.len()
        );
        let mut random = Random::new(3);
        for (n, (_, input)) in inputs.iter().enumerate() {
            (target.body)(input);
            let other = &inputs[(n + 1) % inputs.len()].1;
            for _ in 0..4 {
                (target.body)(&damaged(&mut random, input, other));
            }
        }
    }
}
