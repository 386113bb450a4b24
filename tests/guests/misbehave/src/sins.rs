//! The sins, by the name that the config gives.

use std::{arch::wasm32, cell::RefCell, hint::black_box, mem};

use serde::Deserialize;

use self::bindings::{
    Batch, Changes, Guest,
    streamgate::processor::host::{self, Level},
};

#[expect(unsafe_code, reason = "exports cannot be made without")]
mod bindings {
    wit_bindgen::generate!({
        world: "processor",
        path: "../../../guest-sdk/wit",
    });
    export!(Misbehave with_types_in self);

    use super::Misbehave;
}

const MIB: usize = 1 << 20;

thread_local! {
    static CONFIG: RefCell<Config> = const { RefCell::new(Config::INNOCENT) };
}

struct Misbehave;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    sin: Sin,
    /// Only batches with an event that contains this are sinned against.
    on: Option<String>,
    /// Bytes, numbers or turns, as the sin says.
    size: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sin {
    /// Keeps every event.
    None,
    /// Never comes back.
    Loop,
    /// Never comes back from copying and filling `size` bytes (16 MiB) at a time.
    BulkCopy,
    /// Takes memory, 1 MiB after the other, for as long as there is some.
    MemoryBomb,
    /// Calls itself for ever.
    StackOverflow,
    /// Calls itself `size` times (1,000), then keeps every event.
    Deep,
    /// Executes `unreachable`.
    Trap,
    /// Panics.
    Panic,
    /// Drops an event that the batch does not have.
    WrongIndex,
    /// Drops its events from the last to the first; needs two.
    Unordered,
    /// Drops the first event twice.
    Repeated,
    /// Drops an event and gives it another body.
    DroppedAndReplaced,
    /// Says that a new body ends behind the last byte.
    WrongEnds,
    /// Leaves bytes behind the last end.
    ShortEnds,
    /// Gives new bodies to every event, and the end of none.
    MissingEnds,
    /// Gives two new bodies whose ends descend; needs two events.
    DescendingEnds,
    /// Gives the first event a body of `size` bytes (50 MiB), or as much as there is memory for.
    GiantAnswer,
    /// Drops `size` events (4 million), few of which the batch has.
    ManyAnswers,
    /// Gives every event a body with line feeds in it, and a terminator behind it. No lie: the gate
    /// makes one event of it.
    LineFeeds,
    /// Logs `size` lines (10,000) of 4 KiB, then keeps every event.
    LogFlood,
    /// Adds to `size` counters (10,000) of other names, and to some that cannot be, then keeps every
    /// event.
    CountFlood,
    /// Returns an error.
    Error,
    /// Refuses to be configured.
    ConfigureError,
    /// Never comes back from being configured.
    ConfigureLoop,
    /// Panics while it is configured.
    ConfigurePanic,
    /// Keeps every event, and `size` bytes (1 MiB) for each batch.
    Leak,
    /// Spins for `size` turns (100 million, some 0.1 s), then keeps every event.
    Slow,
}

impl Config {
    const INNOCENT: Self = Self {
        sin: Sin::None,
        on: None,
        size: None,
    };

    fn concerns(&self, events: &Batch) -> bool {
        self.on.as_ref().is_none_or(|on| {
            // A text without a line feed is in the batch if it is in an event.
            memchr::memmem::find(&events.bytes, on.as_bytes()).is_some()
        })
    }
}

impl Guest for Misbehave {
    fn configure(config: String) -> Result<(), String> {
        let config: Config = serde_json::from_str(&config).map_err(|error| error.to_string())?;
        match config.sin {
            Sin::ConfigureError => return Err("configured to refuse".to_owned()),
            Sin::ConfigureLoop => spin_for_ever(),
            Sin::ConfigurePanic => panic!("configured to panic"),
            _ => CONFIG.set(config),
        }
        Ok(())
    }

    fn process(events: Batch) -> Result<Changes, String> {
        let config = CONFIG.with_borrow(Config::clone);
        if !config.concerns(&events) {
            return Ok(keep_all());
        }
        let size = |default| config.size.unwrap_or(default);
        let count = u32::try_from(events.ends.len()).expect("as many as there are");
        match config.sin {
            Sin::None | Sin::ConfigureError | Sin::ConfigureLoop | Sin::ConfigurePanic => {}
            Sin::Loop => spin_for_ever(),
            Sin::BulkCopy => copy_for_ever(size(16 * MIB)),
            Sin::MemoryBomb => take_all_memory(),
            Sin::StackOverflow => {
                recurse(0, u64::MAX);
            }
            Sin::Deep => {
                recurse(0, size(1_000) as u64);
            }
            Sin::Trap => wasm32::unreachable(),
            Sin::Panic => panic!("asked to panic"),
            Sin::WrongIndex => return Ok(dropped(vec![count])),
            Sin::Unordered => return Ok(dropped((0..count).rev().collect())),
            Sin::Repeated => return Ok(dropped(vec![0, 0])),
            Sin::DroppedAndReplaced => {
                return Ok(Changes {
                    dropped: vec![0],
                    ..replaced(vec![0], b"new", vec![3])
                });
            }
            Sin::WrongEnds => return Ok(replaced(vec![0], b"new", vec![4])),
            Sin::ShortEnds => return Ok(replaced(vec![0], b"new", vec![2])),
            Sin::MissingEnds => return Ok(replaced((0..count).collect(), b"new", Vec::new())),
            Sin::DescendingEnds => return Ok(replaced(vec![0, 1], b"new", vec![3, 2])),
            Sin::GiantAnswer => return Ok(giant_answer(size(50 * MIB))),
            Sin::ManyAnswers => {
                let many = u32::try_from(size(4_000_000)).expect("a usize has 32 bits");
                return Ok(dropped((0..many).collect()));
            }
            Sin::LineFeeds => {
                let body = b"one\ntwo\r\n";
                return Ok(Changes {
                    dropped: Vec::new(),
                    replaced: (0..count).collect(),
                    bytes: body.repeat(events.ends.len()),
                    ends: (1..=count).map(|nth| nth * 9).collect(),
                });
            }
            Sin::LogFlood => {
                let line = "x".repeat(4096);
                (0..size(10_000)).for_each(|_| host::log(Level::Warn, &line));
            }
            Sin::CountFlood => {
                (0..size(10_000)).for_each(|n| host::count(&format!("counter_{n}"), 1));
                let long = "x".repeat(65);
                let wrong = ["", "a-b", "a b", "a\nb 1", "ä", &long];
                wrong.iter().for_each(|name| host::count(name, u64::MAX));
            }
            Sin::Error => return Err("asked to fail".to_owned()),
            Sin::Leak => mem::forget(vec![1_u8; size(MIB)]),
            Sin::Slow => {
                (0..size(100_000_000)).for_each(|turn| {
                    black_box(turn);
                });
            }
        }
        Ok(keep_all())
    }
}

fn keep_all() -> Changes {
    dropped(Vec::new())
}

fn dropped(dropped: Vec<u32>) -> Changes {
    Changes {
        dropped,
        ..replaced(Vec::new(), b"", Vec::new())
    }
}

fn replaced(replaced: Vec<u32>, bytes: &[u8], ends: Vec<u32>) -> Changes {
    Changes {
        dropped: Vec::new(),
        replaced,
        bytes: bytes.to_vec(),
        ends,
    }
}

fn spin_for_ever() {
    loop {
        black_box(());
    }
}

/// Spends its time in `memory.copy` and `memory.fill`, which no epoch interrupts midway.
fn copy_for_ever(bytes: usize) {
    let mut buffer = vec![1_u8; bytes];
    loop {
        black_box(&mut buffer).fill(black_box(2));
        black_box(&mut buffer).copy_within(black_box(1).., 0);
    }
}

fn take_all_memory() {
    let mut taken = Vec::new();
    loop {
        taken.push(black_box(vec![1_u8; MIB]));
    }
}

fn recurse(depth: u64, deepest: u64) -> u64 {
    if depth == deepest {
        return depth;
    }
    // Little of it lies in the guest's own memory, so that the calls' stack is what ends first. What
    // is done with the result keeps it from becoming a loop.
    recurse(black_box(depth) + 1, deepest).wrapping_add(depth)
}

fn giant_answer(mut bytes: usize) -> Changes {
    let mut body = Vec::new();
    while body.try_reserve_exact(bytes).is_err() {
        bytes /= 2;
    }
    body.resize(bytes, b'x');
    Changes {
        ends: vec![u32::try_from(bytes).expect("a usize has 32 bits")],
        bytes: body,
        ..replaced(vec![0], b"", Vec::new())
    }
}
