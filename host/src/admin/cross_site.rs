//! The guard against cross-site requests, which keeps web pages out. A browser on the broker's machine can reach loopback, so a page from anywhere could
//! send requests there (cross-site request forgery) or, after pointing its own name at 127.0.0.1 (DNS
//! rebinding), even read the answers. Both show in the headers a page cannot choose: `Host` and `Origin`.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error_response::ErrorResponse;

/// What a listener demands of the headers of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CrossSiteGuard {
    /// Plain HTTP: `Host` must be a loopback name or address with this port, `Origin` absent or the same.
    Loopback {
        /// The port of the listener.
        port: u16,
    },
    /// HTTPS with client certificates: the certificate of the server vouches for the name, but a browser
    /// would present the client's to any page, so `Origin` must be absent or the same.
    SameOrigin,
}

/// Refuses requests that a web page may have sent.
pub(super) async fn check(
    State(guard): State<CrossSiteGuard>,
    request: Request,
    next: Next,
) -> Response {
    match guard.refusal(request.headers()) {
        None => next.run(request).await,
        Some(message) => ErrorResponse::new(403, "foreign-origin", message).into_response(),
    }
}

impl CrossSiteGuard {
    fn refusal(self, headers: &HeaderMap) -> Option<String> {
        let Some(host) = single(headers, header::HOST) else {
            return Some("the request needs exactly one Host header".to_owned());
        };
        if let Self::Loopback { port } = self
            && !is_loopback(host, port)
        {
            return Some(format!(
                "Host `{host}` is not this listener; write http://127.0.0.1:{port} or http://localhost:{port}"
            ));
        }
        if !headers.contains_key(header::ORIGIN) {
            return None;
        }
        let scheme = if self == Self::SameOrigin {
            "https"
        } else {
            "http"
        };
        match single(headers, header::ORIGIN) {
            Some(origin) if origin.eq_ignore_ascii_case(&format!("{scheme}://{host}")) => None,
            _ => Some("requests from web pages of other origins are refused".to_owned()),
        }
    }
}

fn single(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn is_loopback(host: &str, port: u16) -> bool {
    let (name, given) = match host.rsplit_once(':') {
        // The colons of an IPv6 address without a port end before its bracket.
        Some((name, digits)) if !digits.ends_with(']') => (name, digits.parse().ok()),
        _ => (host, Some(80)),
    };
    if given != Some(port) {
        return false;
    }
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(name);
    bare.parse::<std::net::IpAddr>()
        .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: CrossSiteGuard, host: &[&str], origin: Option<&str>, allowed: bool) {
        let mut headers = HeaderMap::new();
        for value in host {
            headers.append(header::HOST, value.parse().expect("a header"));
        }
        if let Some(value) = origin {
            headers.append(header::ORIGIN, value.parse().expect("a header"));
        }
        assert_eq!(
            guard.refusal(&headers).is_none(),
            allowed,
            "{guard:?} {host:?} {origin:?}"
        );
    }

    #[test]
    fn only_loopback_names_with_the_right_port_pass() {
        let guard = CrossSiteGuard::Loopback { port: 4480 };
        for host in [
            "127.0.0.1:4480",
            "localhost:4480",
            "LOCALHOST:4480",
            "[::1]:4480",
            "127.3.2.1:4480",
        ] {
            check(guard, &[host], None, true);
        }
        for host in [
            "evil.example:4480",
            "127.0.0.1",
            "127.0.0.1:4481",
            "localhost.evil.example:4480",
            "127.0.0.1.evil.example:4480",
            "10.0.0.1:4480",
            "0.0.0.0:4480",
            "user@127.0.0.1:4480",
            "[::1]",
            "",
        ] {
            check(guard, &[host], None, false);
        }
        check(guard, &[], None, false);
        check(guard, &["127.0.0.1:4480", "evil.example"], None, false);
        check(
            CrossSiteGuard::Loopback { port: 80 },
            &["localhost"],
            None,
            true,
        );
        check(
            CrossSiteGuard::Loopback { port: 80 },
            &["[::1]"],
            None,
            true,
        );
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let guard = CrossSiteGuard::Loopback { port: 4480 };
        let host = ["127.0.0.1:4480"];
        check(guard, &host, Some("http://127.0.0.1:4480"), true);
        check(guard, &host, Some("http://localhost:4480"), false);
        check(guard, &host, Some("http://127.0.0.1:8080"), false);
        check(guard, &host, Some("https://evil.example"), false);
        check(guard, &host, Some("null"), false);
        let host = ["broker.example:4481"];
        check(CrossSiteGuard::SameOrigin, &host, None, true);
        check(
            CrossSiteGuard::SameOrigin,
            &host,
            Some("https://broker.example:4481"),
            true,
        );
        check(
            CrossSiteGuard::SameOrigin,
            &host,
            Some("http://broker.example:4481"),
            false,
        );
        check(
            CrossSiteGuard::SameOrigin,
            &host,
            Some("https://evil.example"),
            false,
        );
    }
}
