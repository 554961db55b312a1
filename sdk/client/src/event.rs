//! The event as an application makes and gets it.

use bytes::Bytes;
use tidegate_wire::event::{EventCheckError, is_reserved_header};
use tidegate_wire::{Limits, pb};

/// What a publisher says. Cheap to clone: key and payload are shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The publisher's id for it; empty when it does not care.
    pub id: String,
    /// Groups events that belong together. Absent and empty are different.
    pub key: Option<Bytes>,
    /// Name and value of each header, in order; a name may occur more than once, but is never empty.
    pub headers: Vec<(String, String)>,
    /// Media type of the payload; empty when unknown.
    pub content_type: String,
    /// What it carries.
    pub payload: Bytes,
}

impl Event {
    /// An event with nothing but a payload.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self {
            payload: payload.into(),
            ..Self::default()
        }
    }

    /// An event whose payload is JSON text; the text is not checked.
    pub fn json(payload: impl Into<Bytes>) -> Self {
        Self::new(payload).with_content_type("application/json")
    }

    /// The same event with this key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same event with one more header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The same event with this id.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// The same event with this media type.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// The same event without the headers that the broker sets (`tidegate-dead-reason` and the like), which it refuses from
    /// publishers: call this before publishing again what was received, a dead letter for instance.
    #[must_use]
    pub fn without_broker_headers(mut self) -> Self {
        self.headers.retain(|(name, _)| !is_reserved_header(name));
        self
    }

    /// Value of the first header called `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// What the broker would refuse about the headers, found before anything is sent.
    pub(crate) fn check_headers(&self, limits: &Limits) -> Result<(), EventCheckError> {
        let reserved = |(name, _): &&(String, String)| is_reserved_header(name);
        if let Some((name, _)) = self.headers.iter().find(reserved) {
            let name = name.clone();
            return Err(EventCheckError::HeaderReserved { name });
        }
        if self.headers.len() > limits.headers_max {
            return Err(EventCheckError::TooManyHeaders {
                headers: self.headers.len(),
                max: limits.headers_max,
            });
        }
        if let Some(index) = self.headers.iter().position(|(name, _)| name.is_empty()) {
            return Err(EventCheckError::HeaderUnnamed { index });
        }
        let size = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if size > limits.header_bytes_max {
            return Err(EventCheckError::HeadersTooLarge {
                size,
                max: limits.header_bytes_max,
            });
        }
        Ok(())
    }
}

impl From<Event> for pb::Event {
    fn from(event: Event) -> Self {
        let header = |(name, value)| pb::Header { name, value };
        Self {
            id: event.id,
            key: event.key,
            headers: event.headers.into_iter().map(header).collect(),
            content_type: event.content_type,
            payload: event.payload,
        }
    }
}

impl From<pb::Event> for Event {
    fn from(event: pb::Event) -> Self {
        let header = |header: pb::Header| (header.name, header.value);
        Self {
            id: event.id,
            key: event.key,
            headers: event.headers.into_iter().map(header).collect(),
            content_type: event.content_type,
            payload: event.payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_the_wire_form() {
        let event = Event::json("{}")
            .with_id("i")
            .with_key("k")
            .with_header("a", "1")
            .with_header("a", "2");
        assert_eq!(event.header("a"), Some("1"));
        assert_eq!(Event::from(pb::Event::from(event.clone())), event);
    }

    #[test]
    fn headers_are_checked_before_sending() {
        let limits = Limits {
            headers_max: 1,
            header_bytes_max: 2,
            ..Limits::default()
        };
        let check = |event: Event| event.check_headers(&limits);
        assert_eq!(check(Event::new("").with_header("n", "v")), Ok(()));
        assert!(matches!(
            check(Event::new("").with_header("n", "vv")),
            Err(EventCheckError::HeadersTooLarge { size: 3, max: 2 })
        ));
        assert!(matches!(
            check(Event::new("").with_header("", "v")),
            Err(EventCheckError::HeaderUnnamed { index: 0 })
        ));
        assert!(matches!(
            check(Event::new("").with_header("a", "").with_header("b", "")),
            Err(EventCheckError::TooManyHeaders { headers: 2, max: 1 })
        ));
    }

    #[test]
    fn what_the_broker_said_is_not_published_again() {
        let letter = Event::new("")
            .with_header("Tidegate-Hops", "1")
            .with_header("ce-type", "t")
            .with_header("tidegate-dead-reason", "r");
        assert!(matches!(
            letter.check_headers(&Limits::default()),
            Err(EventCheckError::HeaderReserved { name }) if name == "Tidegate-Hops"
        ));
        // However many they are: what is wrong with it is whose they are.
        let tight = Limits {
            headers_max: 1,
            ..Limits::default()
        };
        assert!(matches!(
            letter.check_headers(&tight),
            Err(EventCheckError::HeaderReserved { .. })
        ));
        let again = letter.without_broker_headers();
        assert_eq!(again.check_headers(&tight), Ok(()));
        assert_eq!(again, Event::new("").with_header("ce-type", "t"));
        assert_eq!(again.check_headers(&Limits::default()), Ok(()));
    }
}
