//! The catalogue of detectors, for who writes redact rules.

use axum::Json;
use serde::Serialize;
use streamgate_processors::detectors::{self, Detector};
use utoipa::ToSchema;

/// What a redact rule can name in `detectors`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DetectorInfo {
    /// The name in a rule.
    name: &'static str,
    /// The name for people.
    title: &'static str,
    /// `contact`, `credential`, `device`, `financial`, `health`, `identity` or `network`.
    category: &'static str,
    /// What it looks for, what it checks beyond the shape, and where that is from.
    description: &'static str,
    /// When one of `keywords` must stand near: `always`, `never`, or `sometimes`, if the shape does not
    /// tell enough.
    needs_keyword: &'static str,
    /// Words that say what a number is, in any case; a blank stands for nothing, ` `, `_`, `-` or `.`.
    keywords: &'static [&'static str],
    /// What it finds, each in an event of its own.
    examples: &'static [&'static str],
}

impl From<&'static Detector> for DetectorInfo {
    fn from(detector: &'static Detector) -> Self {
        Self {
            name: detector.name,
            title: detector.title,
            category: detector.category.name(),
            description: detector.description,
            needs_keyword: detector.keyword_use().name(),
            keywords: detector.keywords,
            examples: detector.examples,
        }
    }
}

/// Lists the detectors that redact rules can name, by category and name.
#[utoipa::path(
    get, path = "/detectors", tag = "rules", operation_id = "list_detectors",
    responses((status = 200, description = "The detectors", body = [DetectorInfo], example = json!([{
        "name": "us_npi",
        "title": "US national provider identifier",
        "category": "health",
        "description": "Ten digits from 1 or 2; with 80840 in front they have Luhn's check digit (45 CFR \
            162.406). Always needs a keyword.",
        "needs_keyword": "always",
        "keywords": ["npi", "national provider", "provider id", "provider number"],
        "examples": ["NPI: 1234567893"]
    }])))
)]
pub(super) async fn list() -> Json<Vec<DetectorInfo>> {
    Json(detectors::all().iter().map(DetectorInfo::from).collect())
}
