//! stub
use crate::{config_store::ConfigStore, gate::Gate};
/// stub
pub struct ControlState(Gate);
impl ControlState {
    /// stub
    pub fn new(gate: Gate, _store: ConfigStore) -> Self {
        Self(gate)
    }
}
/// stub
pub fn router(state: ControlState) -> axum::Router {
    axum::Router::new().route(
        "/stats",
        axum::routing::get(move || async move { axum::Json(state.0.stats()) }),
    )
}
