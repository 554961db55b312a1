//! What an author asks of an [`Event`], and how a rule says what it [`Wants`]. The types themselves come from the
//! WIT files; this file only adds methods.

use std::str::Utf8Error;

use crate::{Event, HeaderSet, Wants};

impl Event {
    /// The value of the first header with this name. Names are compared byte by byte.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.header_all(name).next()
    }

    /// The values of all headers with this name, in the publisher's order.
    pub fn header_all<'a, 'n>(
        &'a self,
        name: &'n str,
    ) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.headers
            .iter()
            .filter(move |header| header.name == name)
            .map(|header| header.value.as_str())
    }

    /// The publisher's key as text, if there is one and it is UTF-8.
    #[must_use]
    pub fn key_str(&self) -> Option<&str> {
        std::str::from_utf8(self.key.as_deref()?).ok()
    }

    /// The payload as text.
    ///
    /// # Errors
    /// When it is not UTF-8; the error says where.
    pub fn payload_str(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.payload)
    }
}

impl Wants {
    /// All headers and the payload: what a filter or transform gets that does not say otherwise.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            headers: HeaderSet::All,
            payload: true,
        }
    }

    /// Neither headers nor payload. Topic, sequence, time, key and content type are always there.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            headers: HeaderSet::None,
            payload: false,
        }
    }

    /// The payload and no header.
    #[must_use]
    pub fn payload() -> Self {
        Self::nothing().and_payload()
    }

    /// The headers with one of these names, and no payload.
    #[must_use]
    pub fn headers<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::nothing().and_headers(names)
    }

    /// And the payload.
    #[must_use]
    pub fn and_payload(mut self) -> Self {
        self.payload = true;
        self
    }

    /// And the headers with one of these names.
    #[must_use]
    pub fn and_headers<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        let more = names.into_iter().map(Into::into);
        self.headers = match self.headers {
            HeaderSet::All => HeaderSet::All,
            HeaderSet::None => HeaderSet::Named(more.collect()),
            HeaderSet::Named(mut names) => {
                names.extend(more);
                HeaderSet::Named(names)
            }
        };
        self
    }
}

impl Default for Wants {
    fn default() -> Self {
        Self::everything()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Header;

    fn event() -> Event {
        let header = |name: &str, value: &str| Header {
            name: name.into(),
            value: value.into(),
        };
        Event {
            topic: "orders.eu".into(),
            sequence: 1,
            time: 0,
            key: Some(b"k\xff".to_vec()),
            content_type: None,
            headers: vec![header("a", "1"), header("b", "2"), header("a", "3")],
            payload: b"hello".to_vec(),
        }
    }

    #[test]
    fn headers_are_found_by_their_exact_name() {
        let event = event();
        assert_eq!(event.header("a"), Some("1"));
        assert_eq!(event.header_all("a").collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(event.header("A"), None);
    }

    #[test]
    fn text_is_checked() {
        let event = event();
        assert_eq!(event.key_str(), None);
        assert_eq!(event.payload_str(), Ok("hello"));
    }

    #[test]
    fn wants_add_up() {
        let wants = Wants::headers(["a"]).and_headers(["b"]).and_payload();
        assert!(wants.payload);
        assert_eq!(
            wants.headers,
            HeaderSet::Named(vec!["a".into(), "b".into()])
        );
        assert_eq!(
            Wants::everything().and_headers(["a"]).headers,
            HeaderSet::All
        );
    }
}
