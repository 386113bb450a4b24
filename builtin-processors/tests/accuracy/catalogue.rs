//! The catalogue as docs/detectors.md shows it.

use std::fmt::Write;

use streamgate_processors::detectors::{self, Category, KeywordUse};

const CATEGORIES: [(Category, &str); 7] = [
    (Category::Financial, "Money"),
    (Category::Identity, "Numbers of people and companies"),
    (Category::Contact, "Contact"),
    (Category::Network, "Network"),
    (Category::Credential, "Secrets"),
    (Category::Health, "Health"),
    (Category::Device, "Vehicles and devices"),
];

/// Writes a table for each category.
pub(crate) fn write() -> String {
    let mut page = String::new();
    for (category, title) in CATEGORIES {
        let detectors = detectors::all()
            .iter()
            .filter(|detector| detector.category == category);
        let table =
            "| name | finds | keyword near | what is looked at |\n| --- | --- | --- | --- |";
        writeln!(page, "### {title}\n\n{table}").expect("a string takes all");
        for detector in detectors {
            let keyword = match detector.keyword_use() {
                KeywordUse::Never => String::new(),
                KeywordUse::Always => format!("`{}`, ...", detector.keywords[0]),
                KeywordUse::Sometimes => format!("mostly not; `{}`, ...", detector.keywords[0]),
            };
            let (name, finds, description) = (detector.name, detector.title, detector.description);
            writeln!(page, "| `{name}` | {finds} | {keyword} | {description} |")
                .expect("a string takes all");
        }
        page.push('\n');
    }
    page
}
