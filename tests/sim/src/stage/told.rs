//! What the log of a broker says of losses that it goes on without, on the thread of a run: the lines that an operator reads who has
//! accepted them.

use std::cell::RefCell;
use std::fmt::{Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, set_default};
use tracing::{Event, Level, Metadata, Subscriber};

thread_local! {
    static TOLD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Listens on this thread, as long as what it answers is there.
pub(super) fn listen() -> DefaultGuard {
    TOLD.take();
    set_default(Listener)
}

/// What was told since this was asked last.
pub(super) fn take() -> Vec<String> {
    TOLD.take()
}

struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::ERROR)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        if let Some(loss) = line.loss {
            TOLD.with_borrow_mut(|told| told.push(loss));
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The loss that a line names, if it names one.
#[derive(Default)]
struct Line {
    loss: Option<String>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "loss" {
            let mut loss = String::new();
            // Writing to a String cannot fail.
            let _ = write!(loss, "{value:?}");
            self.loss = Some(loss);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_heard_as_long_as_somebody_listens() {
        let listens = listen();
        let loss = "journal/7.log: groups 7 to 9 (3)";
        tracing::error!(%loss, "committed data is gone");
        tracing::error!("something else");
        drop(listens);
        tracing::error!(%loss, "committed data is gone");
        assert_eq!(take(), [loss]);
    }
}
