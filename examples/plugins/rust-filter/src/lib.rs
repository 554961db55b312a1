use tidegate_plugin::{Event, Filter};

struct Big(usize);

impl Filter for Big {
    fn configure(config: &str) -> Result<Self, String> {
        Ok(Big(config.parse().map_err(|_| "want a number of bytes")?))
    }
    fn matches(&self, event: &Event) -> bool {
        event.payload.len() > self.0
    }
}

tidegate_plugin::export_filter!(Big);
