//! The smallest useful processor: drops the events that contain a keyword.

use serde::Deserialize;
use streamgate_guest::{Batch, Processor, Tally, export};

/// Drops every event whose body contains `keyword`. The fields are the rule's config.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropKeyword {
    keyword: String,
}

impl Processor for DropKeyword {
    fn process(&mut self, batch: &mut Batch) -> Tally {
        Tally::dropped(batch.drop_containing(&self.keyword))
    }
}

export!(DropKeyword);

#[cfg(test)]
mod tests {
    use streamgate_guest::testing::{Harness, Outcome};

    use super::*;

    #[test]
    fn drops_events_with_the_keyword_and_nothing_else() {
        let mut harness = Harness::<DropKeyword>::configure(r#"{"keyword": "DEBUG"}"#).unwrap();
        let outcomes = harness.run(["INFO ready", "DEBUG tick", "WARN disk"]);
        assert_eq!(outcomes, [Outcome::Kept, Outcome::Dropped, Outcome::Kept]);
    }

    #[test]
    fn a_misspelt_config_is_refused() {
        let refused = Harness::<DropKeyword>::configure(r#"{"keywrod": "DEBUG"}"#);
        assert_eq!(
            refused.unwrap_err(),
            "`keywrod`: unknown field `keywrod`, expected `keyword`"
        );
    }
}
