//! Requests that are wrong in themselves: each is refused in the one form that all refusals have, and before anything is waited for.

use axum::body::Bytes;
use futures_util::stream;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_a_request_is_told_in_one_form() {
    let fixture = Fixture::new().await;
    let spec = subscription("known", "orders.eu");
    fixture
        .check("local", "POST /v1/subscriptions", spec, 201)
        .await;
    for (call, status) in [
        ("GET /v1/topics/%ff", 400),
        ("DELETE /v1/topics/%ff", 400),
        ("GET /v1/subscriptions/%ff", 400),
        ("DELETE /v1/subscriptions/%c3%28", 400),
        ("POST /v1/subscriptions/%ff/resume", 400),
        ("GET /v1/subscriptions/%ff/log", 400),
        ("GET /v1/plugins/%ff", 400),
        ("POST /v1/plugins/%ff", 400),
        ("DELETE /v1/plugins/%ff", 400),
        ("GET /v1/%ff", 404),
        ("GET /v1/subscriptions/known/", 404),
        ("GET /v1/topics?limit=1&limti=2", 400),
        ("GET /v1/topics/orders.eu?verbose=1", 400),
        ("DELETE /v1/subscriptions/known?force=true", 400),
        ("DELETE /v1/plugins/event-pattern?force=true", 400),
        ("GET /v1/status?all", 400),
        ("PATCH /v1/topics/orders.eu", 405),
        ("OPTIONS /v1/topics", 405),
        ("PUT /v1/plugins/a", 405),
    ] {
        fixture.check("local", call, None, status).await;
    }
    let kept = "GET /v1/subscriptions/known";
    fixture.check("local", kept, None, 200).await;
    // Scrapers and probes say what they like.
    for probe in ["GET /healthz?a=1", "GET /readyz?a", "GET /metrics?a=b"] {
        fixture.check("local", probe, None, 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_body_says_two_things_under_one_name() {
    let fixture = Fixture::new().await;
    let spec = subscription("known", "orders.eu");
    fixture
        .check("local", "POST /v1/subscriptions", spec, 201)
        .await;
    for (call, body) in [
        ("POST /v1/topics", r#"{"name":"a","name":"b"}"#),
        (
            "POST /v1/subscriptions",
            r#"{"name":"a","topics":["x"],"name":"b"}"#,
        ),
        (
            "POST /v1/subscriptions",
            r#"{"name":"a","topics":["x"],"delivery":{"ack_deadline_ms":1,"ack_deadline_ms":2}}"#,
        ),
        (
            "POST /v1/subscriptions",
            r#"{"name":"a","topics":["x"],"filters":[{"plugin":"event-pattern","config":"{}","config":"[]"}]}"#,
        ),
        (
            "PATCH /v1/subscriptions/known",
            r#"{"delivery":{"attempts_max":1},"delivery":{}}"#,
        ),
        (
            "POST /v1/subscriptions/known/chown",
            r#"{"owner":null,"owner":"cn:a"}"#,
        ),
        (
            "POST /v1/plugins/known/chown",
            r#"{"owner":"cn:b","owner":"cn:a"}"#,
        ),
        (
            "POST /v1/unreadable",
            r#"{"dead_letters":true,"dead_letters":false}"#,
        ),
    ] {
        let (method, path) = call.split_once(' ').expect("METHOD PATH");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body));
        let (status, answer) = fixture.send("local", request.expect("a request")).await;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("malformed")),
            "{call}: {answer}"
        );
        let message = answer["message"].as_str().expect("text");
        assert!(message.contains("stands twice"), "{call}: {message}");
    }
    fixture
        .check("local", "GET /v1/subscriptions/a", None, 404)
        .await;
}

// It says how long its body is, and sends none of it.
fn announcing(path: &str, bytes: u64) -> Request<Body> {
    let silent = stream::pending::<Result<Bytes, std::convert::Infallible>>();
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, bytes)
        .body(Body::from_stream(silent));
    request.expect("a request")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_long_is_refused_before_it_comes() {
    let fixture = Fixture::new().await;
    for (path, bytes) in [
        ("/v1/topics", 100_000_000_000),
        ("/v1/subscriptions", (1 << 20) + 1),
        ("/v1/plugins/scrub", 40 << 20),
        ("/v1/plugins/scrub", u64::MAX),
    ] {
        let (status, answer) = fixture.send("local", announcing(path, bytes)).await;
        assert_eq!(
            (status, &answer["code"]),
            (413, &json!("too-large")),
            "{path}: {answer}"
        );
        let message = answer["message"].as_str().expect("text");
        assert!(message.contains(&bytes.to_string()), "{message}");
        let names_setting = message.contains("plugins.module_bytes_max");
        assert_eq!(names_setting, path.contains("plugins"), "{message}");
    }
    // Who may not is told that.
    let (status, answer) = fixture
        .send("cn:owner", announcing("/v1/plugins/scrub", 40 << 20))
        .await;
    assert_eq!(status, 403, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_whoever_waits() {
    let mut fixture = Fixture::new().await;
    let stop = CancellationToken::new();
    fixture.router = fixture.router_until(&stop);
    let waiting = fixture.send("local", announcing("/v1/topics", 10));
    let (answered, ()) = tokio::join!(waiting, async { stop.cancel() });
    let (status, answer) = answered;
    assert_eq!((status, &answer["code"]), (503, &json!("shutting-down")));
    assert_eq!(answer["retryable"], true);
}
