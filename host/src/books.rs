//! Stub of the books, until the real ones are merged.

use serde::Serialize;
use utoipa::ToSchema;

/// What happened to every event.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Stats {
    /// Events that came in.
    pub received: u64,
}
