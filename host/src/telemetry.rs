//! Log lines about the gate itself, to stderr: text on a terminal, JSON otherwise.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

/// The environment variable with the log level, `info` if it is not set; also takes directives such
/// as `warn,streamgate::outputs=debug`.
pub const LEVEL_VARIABLE: &str = "STREAMGATE_LOG";

/// Begins to log.
pub fn init() {
    let filter = EnvFilter::try_from_env(LEVEL_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr);
    if io::stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder
            .json()
            .with_current_span(false)
            .with_span_list(false)
            .init();
    }
}
