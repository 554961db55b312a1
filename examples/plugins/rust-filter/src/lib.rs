//! A filter: events whose payload is larger than the number of bytes in the configuration.
use tidegate_plugin::{Event, Filter};

struct Big(usize);

impl Filter for Big {
    fn configure(config: &str) -> Result<Self, String> {
        config.trim().parse().map(Big).map_err(|e| format!("want a number of bytes: {e}"))
    }
    fn matches(&self, event: &Event) -> bool {
        event.payload.len() > self.0
    }
}
tidegate_plugin::export_filter!(Big);
