//! What a guest may take: memory, time, answers, log lines. Per rule, with defaults.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use streamgate_guest::{MAX_REWRITTEN_BYTES, rewrite_limit};
use wasmtime::ResourceLimiter;

use super::engine::{
    LEAST_STACK_BYTES, MAX_CORE_INSTANCES, MAX_MEMORY_BYTES, MAX_TABLE_ELEMENTS, MOST_STACK_BYTES,
    STACK_BYTES, Stack,
};

/// `params.limits` of a rule; what is left out has its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most linear memory of one instance, in bytes, 64 KiB to 1 GiB. Default 64 MiB. A guest that
    /// asks for more is told no; what it makes of that is its own affair, mostly a trap.
    pub memory_bytes: usize,
    /// Most processor time for one batch, in milliseconds, 1 to 10,000. Default 50. It is the
    /// thread's own time, so that a busy machine does not make a guest late.
    pub batch_ms: u64,
    /// Most processor time for `configure`, in milliseconds, 1 to 60,000. Default 1,000.
    pub configure_ms: u64,
    /// Most stack for its calls, in bytes, 64 KiB to 1 MiB, rounded up to a power of two. Default
    /// 512 KiB.
    pub stack_bytes: usize,
    /// Most bytes in the new bodies of one answer. Default: 16 MiB, and each new body at most 16 times
    /// what it replaces, and 4 KiB.
    pub output_bytes: Option<usize>,
    /// Most log lines a second of one instance, 0 to 1,000. Default 10.
    pub log_per_second: u32,
}

/// Wall-clock time that a call may take for each unit of its processor time: a guest that waits for
/// a processor this long is given up, so that a worker never waits without end.
pub(super) const WALL_FACTOR: u32 = 20;

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 * 1024 * 1024,
            batch_ms: 50,
            configure_ms: 1_000,
            stack_bytes: STACK_BYTES,
            output_bytes: None,
            log_per_second: 10,
        }
    }
}

/// A limit that cannot be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OutOfRange {
    pub(super) field: &'static str,
    pub(super) message: String,
}

impl Limits {
    /// Checks that every limit is in its range.
    pub(super) fn check(&self) -> Result<(), OutOfRange> {
        let within = |field, found: u64, least: u64, most: u64, unit: &str| {
            if (least..=most).contains(&found) {
                return Ok(());
            }
            Err(OutOfRange {
                field,
                message: format!("`{field}` is {found}; expected {least} to {most} {unit}"),
            })
        };
        let bytes = |bytes: usize| bytes as u64;
        within(
            "memory_bytes",
            bytes(self.memory_bytes),
            64 * 1024,
            bytes(MAX_MEMORY_BYTES),
            "bytes",
        )?;
        within("batch_ms", self.batch_ms, 1, 10_000, "milliseconds")?;
        within("configure_ms", self.configure_ms, 1, 60_000, "milliseconds")?;
        within(
            "stack_bytes",
            bytes(self.stack_bytes),
            bytes(LEAST_STACK_BYTES),
            bytes(MOST_STACK_BYTES),
            "bytes",
        )?;
        if let Some(output_bytes) = self.output_bytes {
            within("output_bytes", bytes(output_bytes), 1, 256 << 20, "bytes")?;
        }
        within(
            "log_per_second",
            self.log_per_second.into(),
            0,
            1_000,
            "lines a second",
        )
    }

    /// Returns the size of the stack that a module is loaded for.
    pub fn stack(&self) -> Stack {
        Stack::of(self.stack_bytes)
    }

    pub(super) fn batch_time(&self) -> Duration {
        Duration::from_millis(self.batch_ms)
    }

    pub(super) fn configure_time(&self) -> Duration {
        Duration::from_millis(self.configure_ms)
    }

    /// Returns how many bytes the new bodies of one answer may have together.
    pub(super) fn answer_bytes(&self) -> usize {
        self.output_bytes.unwrap_or(MAX_REWRITTEN_BYTES)
    }

    /// Returns how many bytes the new body may have that replaces one of `body_len`. It does not depend
    /// on what else is in the batch.
    pub(super) fn body_bytes(&self, body_len: usize) -> usize {
        self.output_bytes.unwrap_or_else(|| rewrite_limit(body_len))
    }
}

/// Counts what one instance has, and refuses what is beyond its limit.
#[derive(Debug)]
pub(super) struct Meter {
    limit_bytes: usize,
    /// Linear memory that the instance has, in bytes.
    pub(super) memory_bytes: usize,
    /// Whether it asked for more than it may have since this was last set to false.
    pub(super) refused: bool,
}

impl Meter {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            memory_bytes: 0,
            refused: false,
        }
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self
            .memory_bytes
            .saturating_sub(current)
            .saturating_add(desired);
        if total > self.limit_bytes {
            self.refused = true;
            return Ok(false);
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = desired <= MAX_TABLE_ELEMENTS;
        self.refused |= !allowed;
        Ok(allowed)
    }

    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        MAX_CORE_INSTANCES as usize
    }

    fn memories(&self) -> usize {
        MAX_CORE_INSTANCES as usize
    }
}
