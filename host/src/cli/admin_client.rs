//! The command line's client of the admin API. Blocking, since every command asks one thing at a time.

use std::io;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidegate_client::Identity;
use ureq::http::Response;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::{Agent, Body, SendBody, Timeout};

use super::connection_flags::{AdminFlag, CertificateFlags, read};
use super::door::{CertificateFiles, Door};
use super::early_answer;
use super::failed_connection::{FailedConnection, Why};
use super::wrong_usage::wrong_usage;
use crate::admin::ErrorResponse;

/// The broker's own limit for a request is 30 s; its answer says more than ours would.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Compiling a component of an interpreter takes most of a minute on a small machine.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(300);
/// Connecting takes no longer anywhere.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer: many times a page of a list.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Why a request to the admin API did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// There is no connection.
    #[error("{0}")]
    Unconnected(Box<FailedConnection>),
    /// The connection broke, without an answer.
    #[error(
        "the connection to {url} broke before an answer came; the request may be carried out or not, so look before you repeat it"
    )]
    Cut {
        /// Where.
        url: String,
        /// What the system says.
        source: io::Error,
    },
    /// The broker said no.
    #[error("{}", problem.message)]
    Refused {
        /// What it said.
        problem: ErrorResponse,
        /// What it was asked for.
        path: String,
    },
    /// Something else answered, or the connection broke.
    #[error("the request to {url} failed")]
    Failed {
        /// Where.
        url: String,
        /// Why.
        source: ureq::Error,
    },
    /// The answer is not what this version understands.
    #[error("{url} answered with status {status}, but not as a Tidegate admin API does: {text}")]
    Foreign {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The answer, or its beginning.
        text: String,
    },
}

/// A client of one broker's admin API.
pub(super) struct Api {
    agent: Agent,
    door: Door,
    files: Option<CertificateFiles>,
}

impl Api {
    /// For the broker the flags name. With `https`, the certificates are read and shown.
    pub(super) fn new(admin: &AdminFlag, certificates: &CertificateFlags) -> anyhow::Result<Self> {
        let door = admin.door(certificates)?;
        let Door {
            address: base,
            from,
        } = &door;
        let scheme = base.split_once("://").map(|(scheme, _)| scheme);
        match scheme {
            Some("http") => Ok(Self::at(door, None)),
            Some("https") => {
                let files = certificates.files()?;
                let tls = tls(&files)?;
                Ok(Self::at(door, Some((tls, files))))
            }
            _ => wrong_usage!(
                "`{base}` (from {from}) is no address of an admin API; write http://HOST:PORT or https://HOST:PORT"
            ),
        }
    }

    /// For the plain admin API at `base`, such as `http://127.0.0.1:4480`.
    pub(super) fn plain(base: &str) -> Self {
        let door = Door {
            address: base.to_owned(),
            from: "this program".to_owned(),
        };
        Self::at(door, None)
    }

    fn at(mut door: Door, tls: Option<(TlsConfig, CertificateFiles)>) -> Self {
        door.address
            .truncate(door.address.trim_end_matches('/').len());
        let (tls, files) = tls.unzip();
        let mut config = Agent::config_builder()
            .timeout_global(Some(REQUEST_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            // Proxies are for the internet; this is for the machine or network at hand.
            .proxy(None)
            // Long enough for the rights to be looked at; then the body is sent unasked.
            .timeout_await_100(Some(CONNECT_TIMEOUT));
        if let Some(tls) = tls {
            config = config.tls_config(tls);
        }
        Self {
            agent: Agent::with_parts(
                config.build(),
                early_answer::connector(),
                DefaultResolver::default(),
            ),
            door,
            files,
        }
    }

    /// Which broker it is, and what says so.
    pub(super) fn broker(&self) -> String {
        let Door { address, from } = &self.door;
        format!("{address} (from {from})")
    }

    /// Whether the broker is up and serves.
    pub(super) fn is_ready(&self) -> bool {
        let asked = self.asked("/readyz");
        asked.body(self.agent.get(&asked.url).call()).is_ok()
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let asked = self.asked(path);
        asked.value(self.agent.get(&asked.url).call())
    }

    /// A whole list, page by page.
    pub(super) fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, ApiError> {
        let mut all = Vec::new();
        let mut next = Some(path.to_owned());
        while let Some(path) = next {
            let asked = self.asked(&path);
            let answer = self.agent.get(&asked.url).call();
            let link = answer.as_ref().ok().and_then(next_page);
            let page: Vec<T> = asked.value(answer)?;
            // A page that is empty and goes on would go on for ever.
            next = link.filter(|_| !page.is_empty());
            all.extend(page);
        }
        Ok(all)
    }

    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let asked = self.asked(path);
        asked.value(self.agent.post(&asked.url).send_json(body))
    }

    pub(super) fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let asked = self.asked(path);
        asked.value(self.agent.patch(&asked.url).send_json(body))
    }

    pub(super) fn post_empty(&self, path: &str) -> Result<(), ApiError> {
        let asked = self.asked(path);
        asked
            .body(self.agent.post(&asked.url).send_empty())
            .map(drop)
    }

    pub(super) fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        bytes: usize,
        body: &mut dyn io::Read,
    ) -> Result<T, ApiError> {
        let asked = self.asked(path);
        let request = self
            .agent
            .post(&asked.url)
            .config()
            .timeout_global(Some(UPLOAD_TIMEOUT))
            .build();
        let answer = request
            .content_type("application/wasm")
            // Megabytes are not sent to be refused.
            .header("expect", "100-continue")
            // So that one that is too large is refused before it is sent.
            .header("content-length", bytes)
            .send(SendBody::from_reader(body));
        asked.value(answer)
    }

    pub(super) fn delete(&self, path: &str) -> Result<(), ApiError> {
        let asked = self.asked(path);
        asked.body(self.agent.delete(&asked.url).call()).map(drop)
    }

    /// The same for what says something of it, as brokers before did not.
    pub(super) fn delete_told<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<Option<T>, ApiError> {
        let asked = self.asked(path);
        let body = asked.body(self.agent.delete(&asked.url).call())?;
        if body.is_empty() {
            return Ok(None);
        }
        let told = serde_json::from_slice(&body);
        told.map(Some).map_err(|_| asked.foreign(200, &body))
    }

    fn asked<'a>(&'a self, path: &'a str) -> Asked<'a> {
        Asked {
            api: self,
            path,
            url: format!("{}{path}", self.door.address),
        }
    }
}

/// What was asked for, to tell what came of it.
struct Asked<'a> {
    api: &'a Api,
    path: &'a str,
    url: String,
}

impl Asked<'_> {
    fn value<T: DeserializeOwned>(
        &self,
        answer: Result<Response<Body>, ureq::Error>,
    ) -> Result<T, ApiError> {
        let body = self.body(answer)?;
        serde_json::from_slice(&body).map_err(|_| self.foreign(200, &body))
    }

    // The body of a success; a refusal is an error.
    fn body(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Vec<u8>, ApiError> {
        let mut answer = answer.map_err(|error| self.failed(error))?;
        let status = answer.status();
        let body = answer
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()
            .map_err(|source| ApiError::Failed {
                url: self.url.clone(),
                source,
            })?;
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<ErrorResponse>(&body) {
            Ok(problem) => Err(ApiError::Refused {
                problem: ErrorResponse {
                    status: status.as_u16(),
                    ..problem
                },
                path: self.path.to_owned(),
            }),
            Err(_) => Err(self.foreign(status.as_u16(), &body)),
        }
    }

    fn failed(&self, error: ureq::Error) -> ApiError {
        let url = self.url.clone();
        match error {
            // How rustls reports what it objects to, and the alerts of the other side.
            ureq::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                let said = source.to_string();
                let by_broker = said.contains("alert");
                self.unconnected(Why::objection(by_broker, &said))
            }
            ureq::Error::Io(source) if is_cut(source.kind()) => ApiError::Cut { url, source },
            ureq::Error::Io(source) => self.unconnected(Why::of_io(&source, CONNECT_TIMEOUT)),
            ureq::Error::HostNotFound => self.unconnected(Why::Unresolved(error.to_string())),
            ureq::Error::ConnectionFailed => self.unconnected(Why::NothingListens),
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                let within = CONNECT_TIMEOUT;
                self.unconnected(Why::NoAnswer { within })
            }
            source => ApiError::Failed { url, source },
        }
    }

    fn unconnected(&self, why: Why) -> ApiError {
        ApiError::Unconnected(Box::new(FailedConnection {
            door: self.api.door.clone(),
            why,
            files: self.api.files.clone(),
        }))
    }

    fn foreign(&self, status: u16, body: &[u8]) -> ApiError {
        let text = String::from_utf8_lossy(body).chars().take(200).collect();
        ApiError::Foreign {
            url: self.url.clone(),
            status,
            text,
        }
    }
}

impl ApiError {
    /// Whether the broker said that there is no such thing.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { problem, .. } if problem.status == 404)
    }

    /// Whether the broker said that it is not for whoever asks.
    pub(super) fn is_denied(&self) -> bool {
        matches!(self, Self::Refused { problem, .. } if problem.status == 403)
    }

    /// Whether the broker said that there is one already.
    pub(super) fn is_already_there(&self) -> bool {
        matches!(self, Self::Refused { problem, .. } if problem.status == 409)
    }
}

/// `text` as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@:$".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    // A segment of dots would be resolved away.
    if out.bytes().all(|byte| byte == b'.') {
        out.replace('.', "%2E")
    } else {
        out
    }
}

/// Where a list goes on, a path of the same broker, when it does.
fn next_page<B>(answer: &Response<B>) -> Option<String> {
    let link = answer.headers().get("link")?.to_str().ok()?;
    let (path, parameters) = link.strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.contains("rel=\"next\"") && path.starts_with('/');
    is_next.then(|| path.to_owned())
}

fn is_cut(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::UnexpectedEof
    )
}

fn tls(files: &CertificateFiles) -> anyhow::Result<TlsConfig> {
    let roots = chain(&read(&files.ca)?)?;
    let (cert, key) = (read(&files.cert)?, read(&files.key)?);
    // In the same words as over QUIC.
    Identity::from_pem(&cert, &key)
        .with_context(|| format!("{} is of no use as a certificate", files.cert.display()))?;
    let client = ClientCert::new_with_certs(&chain(&cert)?, PrivateKey::from_pem(&key)?);
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .client_cert(Some(client))
        .build())
}

fn chain(pem: &[u8]) -> anyhow::Result<Vec<Certificate<'static>>> {
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item? {
            certificates.push(certificate);
        }
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn segments_survive_any_name() {
        let check = |text: &str, expected: &str| assert_eq!(segment(text), expected);
        check("orders.eu", "orders.eu");
        check("scrub@3", "scrub@3");
        check("a/b", "a%2Fb");
        check("größe", "gr%C3%B6%C3%9Fe");
        check("..", "%2E%2E");
        check("a?b#c%", "a%3Fb%23c%25");
    }

    #[test]
    fn a_list_goes_on_where_its_link_says() {
        let check = |link: Option<&str>, expected: Option<&str>| {
            let mut answer = Response::new(());
            if let Some(link) = link {
                let link = link.parse().expect("a header");
                answer.headers_mut().insert("link", link);
            }
            assert_eq!(next_page(&answer).as_deref(), expected, "{link:?}");
        };
        check(None, None);
        let next = "</v1/topics?limit=2&cursor=a>; rel=\"next\"";
        check(Some(next), Some("/v1/topics?limit=2&cursor=a"));
        check(Some("</v1/topics>; rel=\"prev\""), None);
        check(Some("<https://elsewhere/>; rel=\"next\""), None);
        check(Some("nonsense"), None);
    }

    #[test]
    fn a_broker_that_is_not_there_is_said_so() {
        // Port 1 is never open on a machine that runs tests, and reserved anyway.
        let error = Api::plain("http://127.0.0.1:1")
            .get::<serde_json::Value>("/v1/topics")
            .expect_err("nobody is there");
        assert!(error.to_string().contains("nothing listens"), "{error}");
        let told = crate::cli::error_hints::told(&error.into());
        assert!(told.contains("tidegate serve"), "{told}");
    }

    // A server that answers what it is asked once, before it has read the body, and hangs up on the rest of it. Without an answer
    // it only hangs up.
    fn hasty(answer: Option<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                head.extend(byte);
            }
            let Some(body) = answer else { return Ok(()) };
            let length = body.len();
            let head = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all((head + body).as_bytes())
        });
        format!("http://{address}")
    }

    fn ask_with_megabytes(base: &str) -> anyhow::Error {
        let body = "x".repeat(16 << 20);
        let error = Api::plain(base).post::<serde_json::Value>("/v1/topics", &body);
        error.expect_err("it was not even read").into()
    }

    #[test]
    fn the_answer_of_who_does_not_read_on_is_heard() {
        let refusal = r#"{"code":"permission-denied","message":"you may not","retryable":false}"#;
        let error = ask_with_megabytes(&hasty(Some(refusal)));
        assert_eq!(error.to_string(), "you may not");
    }

    #[test]
    fn a_connection_that_breaks_is_no_quiet_end() {
        let error = ask_with_megabytes(&hasty(None));
        assert!(error.to_string().contains("broke before"), "{error:#}");
        assert!(!crate::cli::is_closed_output(&error));
    }
}
