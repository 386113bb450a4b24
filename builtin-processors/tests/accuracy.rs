//! How often each detector is right, over a labelled corpus: recall and precision of 99 % or more.

#[path = "accuracy/catalogue.rs"]
mod catalogue;
#[path = "accuracy/corpus.rs"]
mod corpus;
#[path = "accuracy/score.rs"]
mod score;
#[path = "accuracy/values.rs"]
mod values;

/// Seeds that are judged together: a few cases are luck.
const SEEDS: [u64; 6] = [20_261_123, 6, 18, 33, 45, 60];

#[test]
fn every_detector_is_right_in_99_of_100_cases() {
    let mut cases = Vec::new();
    for seed in SEEDS {
        cases.extend(corpus::draw(seed));
    }
    assert!(cases.len() >= 20_000 * SEEDS.len(), "{}", cases.len());
    let scores = score::judge(&cases);
    let poor: Vec<String> = scores
        .iter()
        .filter(|score| score.recall() < 0.99 || score.precision() < 0.99)
        .map(ToString::to_string)
        .collect();
    assert!(
        poor.is_empty(),
        "{poor:#?}\n`cargo run -p streamgate-processors --example detector-accuracy -- --show NAME` shows why"
    );
}

#[test]
fn the_documentation_has_the_whole_catalogue() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/detectors.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let (_, shown) = page.split_once("<!-- catalogue -->\n\n").expect("a mark");
    assert_eq!(
        shown.trim_end(),
        catalogue::write().trim_end(),
        "write it anew: cargo run -p streamgate-processors --example detector-accuracy -- --catalogue"
    );
}
