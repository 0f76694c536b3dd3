//! Counts every answer and times it. Long polls and websockets are counted, not timed: they wait on purpose.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::Request;
use pin_project_lite::pin_project;
use tower::Service;

use crate::http::reply::Reply;
use crate::metrics::Metrics;

/// The outermost layer.
#[derive(Clone)]
pub struct Observe<S> {
    inner: S,
    metrics: Arc<Metrics>,
    /// Prefix of the paths that are not timed.
    untimed: Arc<str>,
}

impl<S> Observe<S> {
    pub fn new(inner: S, metrics: Arc<Metrics>, untimed: Arc<str>) -> Self {
        Self {
            inner,
            metrics,
            untimed,
        }
    }
}

impl<S, B> Service<Request<B>> for Observe<S>
where
    S: Service<Request<B>, Response = Reply, Error = Infallible>,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = Observed<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_timed = !request.uri().path().starts_with(&*self.untimed);
        Observed {
            metrics: self.metrics.clone(),
            started: is_timed.then(Instant::now),
            inner: self.inner.call(request),
        }
    }
}

pin_project! {
    /// A request under way.
    pub struct Observed<F> {
        metrics: Arc<Metrics>,
        started: Option<Instant>,
        #[pin]
        inner: F,
    }
}

impl<F: Future<Output = Result<Reply, Infallible>>> Future for Observed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(reply) = ready!(this.inner.poll(cx));
        this.metrics.answered(reply.status().as_u16());
        if let Some(started) = this.started {
            this.metrics
                .request_seconds
                .observe(started.elapsed().as_secs_f64());
        }
        Poll::Ready(Ok(reply))
    }
}
