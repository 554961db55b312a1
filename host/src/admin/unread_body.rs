//! What is left of a request's body once its answer is there. Who refuses a request before it has read the body would otherwise
//! close the connection on a client that is still sending: the client sees a broken connection instead of the answer. So the
//! rest is read and thrown away while the answer travels, bounded in bytes and in time. Nothing here looks at what was sent.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

use crate::locks::lock;
use crate::runtime::spawn::Spawner;

/// Bytes that are thrown away for a client that has its answer: twice the largest plugin that the defaults accept.
const UNREAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Time that this may take: those bytes at 2 MiB/s. Meanwhile the connection counts as one between two requests, which makes room
/// when there is none.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers, and then reads what nobody read of the body.
pub(super) async fn read_away(
    State(spawner): State<Spawner>,
    request: Request,
    next: Next,
) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let asks_first = request.headers().contains_key(header::EXPECT);
    let (head, body) = request.into_parts();
    let body = Shared::new(body);
    let request = Request::from_parts(head, Body::new(body.clone()));
    let response = next.run(request).await;
    if body.has_rest(asks_first) {
        drop(spawner.serving("unread body", throw_away(body)));
    }
    response
}

async fn throw_away(mut body: Shared) {
    let all = async {
        let mut bytes = 0;
        while bytes < UNREAD_BYTES_MAX {
            let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            match frame.await {
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) | None => return,
            }
        }
    };
    // Late or not, the connection ends where it is dropped unread.
    let _in_time = tokio::time::timeout(UNREAD_TIMEOUT, all).await;
}

// A body that is still there when its reader has dropped it. The two never read at the same time.
#[derive(Clone)]
struct Shared(Arc<Mutex<Inner>>);

struct Inner {
    body: Body,
    is_begun: bool,
    is_over: bool,
}

impl Shared {
    fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            body,
            is_begun: false,
            is_over: false,
        })))
    }

    // Who asked whether to send at all (`Expect: 100-continue`) and was refused sends nothing.
    fn has_rest(&self, asks_first: bool) -> bool {
        let inner = self.lock();
        !inner.is_over && !inner.body.is_end_stream() && (inner.is_begun || !asks_first)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut inner = self.lock();
        inner.is_begun = true;
        let polled = Pin::new(&mut inner.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            inner.is_over = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use tokio::time::Instant;

    use super::*;

    fn chunks(count: usize) -> impl Iterator<Item = Result<Bytes, Infallible>> {
        std::iter::repeat_n(Ok(Bytes::from_static(&[0; 65_536])), count)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_thrown_away_is_bounded_in_bytes_and_in_time() {
        let fits = Shared::new(Body::from_stream(stream::iter(chunks(1_000))));
        throw_away(fits.clone()).await;
        assert!(fits.lock().is_over);

        let endless = Shared::new(Body::from_stream(stream::iter(chunks(usize::MAX))));
        throw_away(endless.clone()).await;
        assert!(!endless.lock().is_over);

        let begun = Instant::now();
        let silent = stream::pending::<Result<Bytes, Infallible>>();
        throw_away(Shared::new(Body::from_stream(silent))).await;
        assert_eq!(begun.elapsed(), UNREAD_TIMEOUT);
    }
}
