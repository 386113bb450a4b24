//! Prints how often each detector is right, over a labelled corpus that it draws from a seed.
//!
//! `--seed N` draws another one; `--show NAME` prints the events that the detector is wrong about;
//! `--catalogue` prints the tables of docs/detectors.md instead.

#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::env;

#[path = "../tests/accuracy/catalogue.rs"]
mod catalogue;
#[path = "../tests/accuracy/corpus.rs"]
mod corpus;
#[path = "../tests/accuracy/score.rs"]
mod score;
#[path = "../tests/accuracy/values.rs"]
mod values;

fn main() {
    let arguments: Vec<String> = env::args().collect();
    if arguments.iter().any(|argument| argument == "--catalogue") {
        print!("{}", catalogue::write());
        return;
    }
    let flag = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)
    };
    let seed = flag("--seed")
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(20_261_123);
    let cases = corpus::draw(seed);
    println!("seed {seed}, {} cases", cases.len());
    for score in score::judge(&cases) {
        match flag("--show") {
            None => println!("{score}"),
            Some(name) if *name == score.name => {
                println!("{score}");
                for (what, numbers) in [("missed", &score.missed), ("wrong", &score.wrong)] {
                    for &number in numbers.iter().take(40) {
                        println!("{what}: {:?}: {}", cases[number].label, cases[number].event);
                    }
                }
            }
            Some(_) => {}
        }
    }
}
