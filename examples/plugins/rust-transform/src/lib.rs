use tidegate_plugin::{Event, Failure, Outcome, Output, Transform};

struct Mask(String);

impl Transform for Mask {
    fn configure(word: &str) -> Result<Self, String> {
        Ok(Mask(word.to_string()))
    }
    fn apply(&self, event: &Event) -> Result<Outcome, Failure> {
        let text = event.payload_str().map_err(|error| error.to_string())?;
        let masked = text.replace(&self.0, "***");
        Ok(Outcome::Replace(Output::like(event, masked)))
    }
}

tidegate_plugin::export_transform!(Mask);
