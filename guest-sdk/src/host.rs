//! What a guest may ask the gate for: a log, counters, the time and random numbers.
//!
//! There are no files, no network and no environment. In a native test the
//! [`Harness`](crate::testing::Harness) answers instead of the gate. Outside of both, lines go to
//! stderr, counters nowhere, and time and random numbers come from the system.

#[cfg(target_arch = "wasm32")]
use crate::export::bindings::streamgate::processor::host as gate;

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever develops the processor.
    Debug,
    /// Something happened as planned.
    Info,
    /// Something is not right, and the processor goes on.
    Warn,
    /// Someone must act.
    Error,
}

/// Writes a line to the gate's log, tagged with the rule.
///
/// **Limits**: 1,024 bytes of a line are kept, and ten lines a second by default; more are counted
/// and left out. So never log an event: count instead.
pub fn log(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    gate::log(
        match level {
            Level::Debug => gate::Level::Debug,
            Level::Info => gate::Level::Info,
            Level::Warn => gate::Level::Warn,
            Level::Error => gate::Level::Error,
        },
        message,
    );
    #[cfg(not(target_arch = "wasm32"))]
    native::log(level, message);
}

/// Writes a line for whoever develops the processor; see [`log`].
pub fn debug(message: &str) {
    log(Level::Debug, message);
}

/// Writes a line about something that happened as planned; see [`log`].
pub fn info(message: &str) {
    log(Level::Info, message);
}

/// Writes a line about something that is not right; see [`log`].
pub fn warn(message: &str) {
    log(Level::Warn, message);
}

/// Writes a line about something that needs someone to act; see [`log`].
pub fn error(message: &str) {
    log(Level::Error, message);
}

/// Adds to a counter of the rule, which shows up in the gate's `/metrics`.
///
/// **Limits**: a name is 1 to 64 of `a-z A-Z 0-9 _`, and a rule has at most 32 of them; what does not
/// fit is counted and left out. Each call leaves the sandbox: add up, and count once a batch.
pub fn count(name: &str, by: u64) {
    #[cfg(target_arch = "wasm32")]
    gate::count(name, by);
    #[cfg(not(target_arch = "wasm32"))]
    native::count(name, by);
}

/// Returns the milliseconds since 1970-01-01T00:00:00Z. Within a batch the time stands still.
pub fn now_ms() -> u64 {
    #[cfg(target_arch = "wasm32")]
    return gate::now_ms();
    #[cfg(not(target_arch = "wasm32"))]
    native::now_ms()
}

/// Returns 64 random bits, not for secrets.
pub fn random() -> u64 {
    #[cfg(target_arch = "wasm32")]
    return gate::random();
    #[cfg(not(target_arch = "wasm32"))]
    native::random()
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod native {
    //! The host of a native test.

    use std::{
        cell::RefCell,
        collections::BTreeMap,
        hash::{BuildHasher, RandomState},
        time::{SystemTime, UNIX_EPOCH},
    };

    use super::Level;

    const MAX_COUNTERS: usize = 32;
    const MAX_NAME_BYTES: usize = 64;

    thread_local! {
        static CURRENT: RefCell<Option<TestHost>> = const { RefCell::new(None) };
    }

    /// Answers a processor under test, and notes what it asked for.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct TestHost {
        pub(crate) logged: Vec<(Level, String)>,
        pub(crate) counted: BTreeMap<String, u64>,
        pub(crate) now_ms: u64,
        pub(crate) random_state: u64,
    }

    impl TestHost {
        /// Calls `f` with this host in place of the default one of this thread.
        pub(crate) fn answer<T>(&mut self, f: impl FnOnce() -> T) -> T {
            CURRENT.with(|current| current.replace(Some(self.clone())));
            let result = f();
            if let Some(host) = CURRENT.take() {
                *self = host;
            }
            result
        }
    }

    /// Calls `f` with the host of the running test, if there is one.
    fn in_test<T>(f: impl FnOnce(&mut TestHost) -> T) -> Option<T> {
        CURRENT.with_borrow_mut(|current| current.as_mut().map(f))
    }

    pub(super) fn log(level: Level, message: &str) {
        let noted = in_test(|host| host.logged.push((level, message.to_owned())));
        if noted.is_none() {
            eprintln!("{level:?}: {message}");
        }
    }

    pub(super) fn count(name: &str, by: u64) {
        in_test(|host| {
            let fits = (1..=MAX_NAME_BYTES).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            assert!(
                fits,
                "`{name}` is no name of a counter; expected 1 to {MAX_NAME_BYTES} of a-z A-Z 0-9 _"
            );
            *host.counted.entry(name.to_owned()).or_default() += by;
            assert!(
                host.counted.len() <= MAX_COUNTERS,
                "`{name}` is one counter too many; a rule has at most {MAX_COUNTERS}"
            );
        });
    }

    pub(super) fn now_ms() -> u64 {
        in_test(|host| host.now_ms).unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            })
        })
    }

    pub(super) fn random() -> u64 {
        in_test(|host| {
            // SplitMix64. Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number
            // Generators", 2014.
            host.random_state = host.random_state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = host.random_state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        })
        .unwrap_or_else(|| RandomState::new().hash_one(0))
    }
}
