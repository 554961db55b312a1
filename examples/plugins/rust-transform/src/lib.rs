//! A transform: replaces every occurrence of the configured word in a text payload by `***`.
use tidegate_plugin::{Event, Failure, Outcome, Output, Transform};

struct Mask(String);

impl Transform for Mask {
    fn configure(word: &str) -> Result<Self, String> {
        if word.is_empty() { Err("which word?".into()) } else { Ok(Mask(word.into())) }
    }
    fn apply(&self, event: &Event) -> Result<Outcome, Failure> {
        let text = event.payload_str().map_err(|e| e.to_string())?;
        if !text.contains(&self.0) {
            return Ok(Outcome::Keep);
        }
        Ok(Outcome::Replace(Output::like(event, text.replace(&self.0, "***"))))
    }
}
tidegate_plugin::export_transform!(Mask);
