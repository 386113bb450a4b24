//! What every report begins with, and the few sums that it takes.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

/// Stands for what could not be found out.
const UNKNOWN: &str = "unknown";

/// How a result came about.
#[derive(Debug, Serialize)]
pub(crate) struct Origin {
    /// The command line. Of paths only the last part is kept: results are published.
    pub command: Vec<String>,
    /// The commit that the working directory was at, `+changes` if files differ from it.
    pub commit: String,
    /// When the run began, UTC.
    pub date: String,
    /// Where it ran.
    pub machine: Machine,
}

/// The machine, as far as it matters for a result.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// Model name of the CPU.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

impl Origin {
    /// Reads all of it; what cannot be read is `unknown`, since a result is worth more than a label.
    #[must_use]
    pub(crate) fn read() -> Self {
        let command = env::args().map(|argument| {
            let path = Path::new(&argument);
            path.file_name()
                .map_or_else(|| argument.clone(), |name| name.to_string_lossy().into())
        });
        let mut commit = output_of("git", &["rev-parse", "--short=12", "HEAD"]);
        let changes = output_of("git", &["status", "--porcelain", "--untracked-files=no"]);
        if !changes.is_empty() && changes != UNKNOWN {
            commit.push_str("+changes");
        }
        Self {
            command: command.collect(),
            commit,
            date: output_of("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            machine: Machine::read(),
        }
    }
}

impl Machine {
    fn read() -> Self {
        let field = |path: &str, name: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let value = text
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|rest| rest.trim_matches([' ', '\t', ':']).to_owned());
            value.unwrap_or_else(|| UNKNOWN.to_owned())
        };
        let kibibytes = field("/proc/meminfo", "MemTotal");
        let kibibytes = kibibytes.trim_end_matches(" kB").parse().unwrap_or(0);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease");
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            kernel: kernel.map_or_else(|_| UNKNOWN.to_owned(), |text| text.trim().to_owned()),
            memory_bytes: kibibytes * 1024_u64,
        }
    }
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => UNKNOWN.to_owned(),
    }
}

/// Writes `report` to `path` as JSON, and makes its folder if there is none.
///
/// # Errors
/// If that is not possible.
pub(crate) fn save(path: &Path, report: &impl Serialize) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(cannot)?;
    }
    let mut file = File::create(path).with_context(cannot)?;
    serde_json::to_writer_pretty(&mut file, report).with_context(cannot)?;
    writeln!(file).with_context(cannot)
}

/// Returns the middle value, or the mean of the two in the middle; NaN of nothing.
#[must_use]
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The percentiles that are reported, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Percentiles {
    /// Half of the events took no longer.
    pub p50_us: f64,
    /// 99 of 100 events took no longer.
    pub p99_us: f64,
    /// 999 of 1000 events took no longer.
    pub p999_us: f64,
    /// No event took longer.
    pub max_us: f64,
    /// How many were counted.
    pub count: u64,
}

impl Percentiles {
    /// Reads them from a histogram of nanoseconds.
    #[must_use]
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            reason = "at most a minute in nanoseconds"
        )]
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: at(1.0),
            count: histogram.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle() {
        assert!(median([3.0, 1.0, 2.0]).to_bits() == 2f64.to_bits());
        assert!(median([4.0, 1.0, 2.0, 3.0]).to_bits() == 2.5f64.to_bits());
        assert!(median([]).is_nan());
    }
}
