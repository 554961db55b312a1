//! Lists come in pages, so that nobody has to make, carry or hold a whole one. The body of a page is a JSON array; where the
//! next one begins is in its `Link` header, as RFC 8288 has it. A cursor is the name of the last item before it, so items
//! that come and go meanwhile neither hide others nor show them twice.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::error_response::ErrorResponse;

/// Items of a page, at most and by default.
const ITEMS_MAX: usize = 1_000;
/// A page ends with the item that makes it this long.
const BYTES_MAX: usize = 1024 * 1024;
/// Items that are looked at together.
const CHUNK: usize = 64;

/// What a request says of the page it wants.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    limit: Option<usize>,
    cursor: Option<String>,
}

/// Which page is wanted.
#[derive(Debug)]
pub(super) struct Page {
    limit: usize,
    /// Begins after the item of this name.
    pub(super) after: Option<String>,
}

/// A page as it goes out.
#[derive(Debug)]
pub(super) struct Paged {
    body: Vec<u8>,
    // Where the next one begins, if there is one.
    next: Option<String>,
    limit: usize,
}

impl Page {
    /// What the request asks for.
    pub(super) fn wanted(
        query: Result<Query<Wanted>, QueryRejection>,
    ) -> Result<Self, ErrorResponse> {
        let Query(wanted) = query.map_err(|rejection| {
            ErrorResponse::malformed(format!(
                "a list takes `limit` and `cursor`: {}",
                rejection.body_text()
            ))
        })?;
        let limit = wanted.limit.unwrap_or(ITEMS_MAX);
        if !(1..=ITEMS_MAX).contains(&limit) {
            return Err(ErrorResponse::malformed(format!(
                "`limit` is {limit}; a page has 1 to {ITEMS_MAX} items, and its `Link` header says where the next one is"
            )));
        }
        Ok(Self {
            limit,
            after: wanted.cursor,
        })
    }

    /// Fills the page. `fetch` answers up to so many items after the one of that name, or the first ones, by name; fewer
    /// mean that there are no more.
    pub(super) fn fill<T: Serialize>(
        self,
        fetch: impl Fn(Option<&str>, usize) -> Vec<T>,
        name: impl Fn(&T) -> String,
    ) -> Result<Paged, serde_json::Error> {
        let mut paged = Paged {
            body: vec![b'['],
            next: None,
            limit: self.limit,
        };
        let (mut after, mut items) = (self.after, 0);
        loop {
            let chunk = fetch(after.as_deref(), CHUNK);
            for item in &chunk {
                if items == self.limit || paged.body.len() >= BYTES_MAX {
                    paged.next = after;
                    paged.body.push(b']');
                    return Ok(paged);
                }
                if items > 0 {
                    paged.body.push(b',');
                }
                serde_json::to_writer(&mut paged.body, item)?;
                items += 1;
                after = Some(name(item));
            }
            if chunk.len() < CHUNK {
                paged.body.push(b']');
                return Ok(paged);
            }
        }
    }
}

impl Paged {
    /// The answer to a request for `path`.
    pub(super) fn answer(self, path: &str) -> Response {
        let json = (header::CONTENT_TYPE, "application/json");
        let mut response = ([json], self.body).into_response();
        if let Some(next) = self.next {
            let cursor = encoded(&next);
            let link = format!(
                "<{path}?limit={}&cursor={cursor}>; rel=\"next\"",
                self.limit
            );
            if let Ok(link) = HeaderValue::try_from(link) {
                response.headers_mut().insert(header::LINK, link);
            }
        }
        response
    }
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(limit: usize, after: Option<&str>) -> Page {
        Page {
            limit,
            after: after.map(str::to_owned),
        }
    }

    // Pages over `names`, in order, each item with so much beside its name.
    fn pages(names: &[String], limit: usize, weight: usize) -> Vec<Vec<String>> {
        let fetch = |after: Option<&str>, count: usize| -> Vec<(String, String)> {
            let rest = names
                .iter()
                .filter(|name| after.is_none_or(|after| name.as_str() > after));
            rest.take(count)
                .map(|name| (name.clone(), "x".repeat(weight)))
                .collect()
        };
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let filled = page(limit, after.as_deref()).fill(fetch, |item| item.0.clone());
            let filled = filled.expect("serializable");
            let items: Vec<(String, String)> =
                serde_json::from_slice(&filled.body).expect("a JSON array");
            all.push(items.into_iter().map(|item| item.0).collect());
            after = filled.next;
            if after.is_none() {
                return all;
            }
        }
    }

    #[test]
    fn pages_have_everything_once_and_end_by_count_and_by_bytes() {
        let check = |count: usize, limit: usize, weight: usize, expected: usize| {
            let names: Vec<String> = (0..count).map(|n| format!("n{n:05}")).collect();
            let pages = pages(&names, limit, weight);
            assert_eq!(pages.concat(), names, "{count} by {limit}");
            assert_eq!(pages.len(), expected, "{count} by {limit}");
        };
        check(0, 10, 1, 1);
        check(10, 10, 1, 1);
        check(11, 10, 1, 2);
        check(1_000, 1_000, 1, 1);
        check(128, 64, 1, 2);
        check(4, 1_000, BYTES_MAX, 4);
    }

    #[test]
    fn a_cursor_survives_any_name() {
        assert_eq!(encoded("a.b-c_d~e"), "a.b-c_d~e");
        assert_eq!(encoded("ä b&c"), "%C3%A4%20b%26c");
        let paged = Paged {
            body: b"[]".to_vec(),
            next: Some("a b".to_owned()),
            limit: 7,
        };
        let link = paged.answer("/v1/topics").headers()[header::LINK].clone();
        assert_eq!(link, "</v1/topics?limit=7&cursor=a%20b>; rel=\"next\"");
    }
}
