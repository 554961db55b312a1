//! The admin API: HTTP and JSON for managing topics, subscriptions, routes and plugins, and for looking at the
//! broker's health and metrics. It translates between HTTP and [`Broker`], and asks the
//! policy before every call; it keeps no state of its own but counters. `/v1` needs grants; `/healthz`,
//! `/readyz`, `/metrics` and `/v1/whoami` need none beyond reaching the listener: loopback, or a valid client
//! certificate. Publishing and consuming never happen here.

mod connection_pool;
mod context;
mod counters;
mod cross_site;
mod error_response;
mod listener;
mod lookups;
mod pagination;
mod plugins;
mod request;
mod status;
mod subscriptions;
mod topics;
mod unread_body;
mod unreadable;
mod write_timeout;

use std::sync::Arc;

use tokio::time::Instant;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, post};
use tokio_util::sync::CancellationToken;

use crate::auth::Policy;
use crate::broker::Broker;
use crate::telemetry::Metrics;

pub use context::AdminOptions;
pub use error_response::ErrorResponse;
pub use listener::{ALPN, BindError, Listeners};

use context::Context;

/// Bytes of a JSON body: a specification, with a plugin's configuration in it.
const JSON_BYTES_MAX: usize = 1024 * 1024;

/// Serves the admin API on `listeners` until `shutdown`; then accepts nothing more, lets requests in progress
/// finish for at most five seconds, and returns.
///
/// # Cancel safety
///
/// Dropping the future stops accepting; connections end with their requests.
pub async fn serve(
    listeners: Listeners,
    options: AdminOptions,
    broker: Broker,
    policy: Arc<Policy>,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let counted = Arc::new(counters::AdminCounters::default());
    metrics.read({
        let (counted, policy) = (counted.clone(), policy.clone());
        move || counted.families(&policy)
    });
    let (spawner, clock) = (broker.spawner().clone(), broker.clock().clone());
    let app = Context {
        broker,
        policy,
        metrics,
        counted: Arc::clone(&counted),
        lookups: lookups::Lookups::new(spawner.clone()),
        options: Arc::new(options.clone()),
        started: Instant::now(),
    };
    listener::serve(
        listeners,
        router(app, &shutdown),
        listener::Shares {
            connections_max: options.connections_max,
            address_connections_max: options.address_connections_max,
            principal_connections_max: options.principal_connections_max,
        },
        counted,
        (&spawner, clock),
        shutdown,
    )
    .await;
}

fn router(app: Context, shutdown: &CancellationToken) -> Router {
    let within = |time| (request::Deadline(time), shutdown.clone());
    let upload = within(app.options.upload_timeout);
    let uploads = Router::new()
        .route("/v1/plugins/{name}", post(plugins::upload))
        .layer(from_fn(request::without_query))
        .layer(DefaultBodyLimit::max(app.options.module_bytes_max))
        .layer(from_fn_with_state(upload, request::within_deadline));
    let quick = within(app.options.request_timeout);
    with_queries()
        .merge(without_queries().layer(from_fn(request::without_query)))
        .merge(health())
        .layer(DefaultBodyLimit::max(JSON_BYTES_MAX))
        .layer(from_fn_with_state(
            request::LengthMax {
                bytes: JSON_BYTES_MAX,
                by: "",
            },
            request::within_length,
        ))
        .layer(from_fn_with_state(quick, request::within_deadline))
        .merge(uploads)
        .fallback(|| async {
            ErrorResponse::new(
                404,
                "not-found",
                "there is no such resource; see /v1/status",
            )
        })
        .method_not_allowed_fallback(|| async {
            ErrorResponse::new(
                405,
                "method-not-allowed",
                "this resource does not take that method",
            )
        })
        .layer(from_fn_with_state(
            Arc::clone(&app.counted),
            request::observe,
        ))
        .with_state(app)
}

// Lists, and what else takes parameters in its address.
fn with_queries() -> Router<Context> {
    Router::new()
        .route("/v1/topics", get(topics::list))
        .route("/v1/subscriptions", get(subscriptions::list))
        .route("/v1/routes", get(subscriptions::list_routes))
        .route("/v1/plugins", get(plugins::list))
        .route("/v1/plugin-names", get(plugins::list_names))
        .route("/v1/plugins/{name}", delete(plugins::delete))
}

fn without_queries() -> Router<Context> {
    let one_topic = get(topics::show).delete(topics::delete);
    let one_subscription = get(subscriptions::show)
        .patch(subscriptions::update)
        .delete(subscriptions::delete);
    let unreadable = get(unreadable::list).post(unreadable::give_up);
    Router::new()
        .route("/v1/topics", post(topics::create))
        .route("/v1/topics/{name}", one_topic)
        .route("/v1/subscriptions", post(subscriptions::create))
        .route("/v1/subscriptions/{name}", one_subscription)
        .route(
            "/v1/subscriptions/{name}/resume",
            post(subscriptions::resume),
        )
        .route("/v1/subscriptions/{name}/pause", post(subscriptions::pause))
        .route("/v1/subscriptions/{name}/log", get(subscriptions::log))
        .route("/v1/subscriptions/{name}/chown", post(subscriptions::chown))
        .route("/v1/plugins/{name}/chown", post(plugins::chown))
        .route("/v1/plugins/{name}", get(plugins::show))
        .route("/v1/unreadable", unreadable)
        .route("/v1/whoami", get(status::whoami))
        .route("/v1/status", get(status::status))
}

// Scrapers and probes put what they like into their addresses.
fn health() -> Router<Context> {
    Router::new()
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(status::metrics))
}

#[cfg(test)]
mod tests;
