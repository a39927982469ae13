//! HTTP listener: one quick request for each connection. The body of a web hook is read piece by piece,
//! and none is kept. Plain HTTP; to expose it, put a TLS proxy before it. Does not know the responses.
//! `page` has the routes of the page.

use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::domain::bus::webhook::{
    RequestHeaders, WebhookReader, WebhookRefusal, WebhookSecrets, WebhookVerdict,
};
use crate::domain::page::hosts::PageHosts;

/// Largest request body, in bytes: GitHub sends up to 25 MB.
const MOST: u64 = 25 << 20;
/// The bytes of a larger body that are read in all: a client that still sends would not see the answer.
const MOST_DISCARDED: u64 = 2 * MOST;
/// The bytes of a body that are given one second more to arrive.
const RATE: u64 = 1 << 20;
/// Largest size of the headers in bytes, and their largest number.
const MOST_HEADERS: (usize, usize) = (16 << 10, 64);
/// Time limit to read a request with a small body.
const REQUEST: Duration = Duration::from_secs(5);
/// Time limit for a whole connection: that of the largest body, and of the answer.
const CONNECTION: Duration = Duration::from_secs(65);
/// Connections served at a time. The others wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// Pause after a failed accept, for instance without free descriptors.
const REST: Duration = Duration::from_millis(200);

mod page;

/// What a listener serves besides metrics, health and status.
#[derive(Clone, Debug)]
pub enum WebRoutes {
    /// Web hooks that are signed with one of these secrets.
    Hooks(Replaceable<WebhookSecrets>),
    /// The page, for browsers that ask for one of these hosts.
    Page(Replaceable<PageHosts>),
}

impl WebRoutes {
    /// What it is for, in errors.
    fn purpose(&self) -> &'static str {
        match self {
            Self::Hooks(_) => "web hooks",
            Self::Page(_) => "the page",
        }
    }
}

/// A request to the listener.
#[derive(Debug)]
pub enum WebRequest {
    /// `GET /healthz`
    Health,
    /// `GET /metrics`
    Metrics,
    /// `GET /status`
    Status,
    /// `POST /hook`
    Hook(WebhookVerdict),
    /// `GET /`: this machine.
    Machine,
    /// `GET /fleet`
    Fleet,
}

/// What a listener uses and may be replaced while it serves.
#[derive(Debug)]
pub struct Replaceable<T>(Arc<RwLock<T>>);

impl<T> Replaceable<T> {
    /// This value.
    pub fn new(value: T) -> Self {
        Self(Arc::new(RwLock::new(value)))
    }

    /// Replaces the value for later requests.
    pub fn replace(&self, value: T) {
        // A panic elsewhere left a whole value behind.
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }

    /// The value, which is not replaced until this is dropped.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Replaceable<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Response to a request.
#[derive(Clone, Debug)]
pub struct WebResponse {
    /// HTTP status code.
    pub status: u16,
    /// Content type of the text.
    pub kind: &'static str,
    /// Body of the response.
    pub text: String,
}

impl WebResponse {
    /// A plain-text response of one line.
    pub fn words(status: u16, text: impl Into<String>) -> Self {
        let text = text.into() + "\n";
        Self { status, kind: "text/plain; charset=utf-8", text }
    }

    /// A page.
    pub fn html(text: String) -> Self {
        Self { status: 200, kind: "text/html; charset=utf-8", text }
    }
}

impl IntoResponse for WebResponse {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, self.kind)], self.text).into_response()
    }
}

type WebHandler = Arc<dyn Fn(WebRequest) -> WebResponse + Send + Sync>;

/// The handler of requests, and the secrets that sign web hooks.
#[derive(Clone)]
struct WebState {
    secrets: Replaceable<WebhookSecrets>,
    handler: WebHandler,
}

/// A listener that serves in its own thread until it is dropped.
#[derive(Debug)]
pub struct WebServer {
    address: SocketAddr,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl WebServer {
    /// Serves `routes` on `bind`. `answer` runs on separate threads, at most one for each connection.
    ///
    /// # Errors
    /// When the address is not available, or the system provides no thread.
    pub fn start(
        bind: SocketAddr,
        routes: WebRoutes,
        answer: impl Fn(WebRequest) -> WebResponse + Send + Sync + 'static,
    ) -> Result<Self> {
        let purpose = routes.purpose();
        let listener = TcpListener::bind(bind).with_context(|| {
            format!(
                "cannot listen for {purpose} on {bind}\n\
                 hint: to see which process uses it: ss -ltnp; to move the agent itself to another \
                 address of that port, restart it"
            )
        })?;
        let address = listener
            .local_addr()
            .with_context(|| format!("cannot read the address for {purpose}"))?;
        let cannot_wait = || format!("cannot wait for {purpose}");
        listener.set_nonblocking(true).with_context(cannot_wait)?;
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(CONNECTIONS)
            .build()
            .with_context(cannot_wait)?;
        let stop = Arc::new(Notify::new());
        let (stopped, router) = (Arc::clone(&stop), router(routes, Arc::new(answer)));
        let thread = thread::Builder::new()
            .name("web".to_owned())
            .spawn(move || run(runtime, listener, router, &stopped))
            .with_context(|| format!("cannot start the thread for {purpose}"))?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.stop.notify_one();
        // Waits for the thread so that the address is free again; whether it panicked does not matter.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn run(runtime: Runtime, listener: TcpListener, router: Router, stop: &Notify) {
    runtime.block_on(async {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => drop(tokio::spawn(serve(listener, router))),
            Err(error) => tracing::error!(%error, "no connections are accepted"),
        }
        stop.notified().await;
    });
    // Do not wait for responses in progress.
    runtime.shutdown_background();
}

async fn serve(listener: tokio::net::TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = timeout(CONNECTION, serve_one(stream, router.clone()));
                tokio::spawn(async move {
                    // The client sees how its connection ended.
                    let _ = connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "no connection");
                sleep(REST).await;
            }
        }
    }
}

/// Time by which a request must have been read.
#[derive(Clone, Copy)]
struct ReadDeadline(Instant);

async fn serve_one(stream: TcpStream, router: Router) -> hyper::Result<()> {
    let router = router.layer(Extension(ReadDeadline(Instant::now() + REQUEST)));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(MOST_HEADERS.0)
        .max_headers(MOST_HEADERS.1)
        // So that no data after a request is taken for another one.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
}

fn router(routes: WebRoutes, handler: WebHandler) -> Router {
    let routes = match routes {
        WebRoutes::Hooks(secrets) => hooks(WebState { secrets, handler: Arc::clone(&handler) }),
        WebRoutes::Page(hosts) => return page::router(hosts, handler),
    };
    figures(handler).merge(routes)
}

/// The routes that each listener has.
fn figures(handler: WebHandler) -> Router {
    let answer = |State(handler), request| answered(handler, request);
    Router::new()
        .route("/healthz", get(move |state| answer(state, WebRequest::Health)))
        .route("/metrics", get(move |state| answer(state, WebRequest::Metrics)))
        .route("/status", get(move |state| answer(state, WebRequest::Status)))
        .with_state(handler)
}

fn hooks(state: WebState) -> Router {
    Router::new()
        .route("/hook", post(hook))
        .fallback(async || {
            WebResponse::words(
                404,
                "there are POST /hook, GET /healthz, GET /metrics and GET /status",
            )
        })
        .method_not_allowed_fallback(async || {
            WebResponse::words(405, "POST goes to /hook, GET to the others")
        })
        .with_state(state)
}

async fn hook(
    State(state): State<WebState>,
    Extension(ReadDeadline(deadline)): Extension<ReadDeadline>,
    request: Request,
) -> WebResponse {
    let mut reader = WebhookReader::new(known(request.headers()), &state.secrets.read());
    // A client that asks first sends the body only when we begin to read it.
    let asks_first = request.headers().contains_key(header::EXPECT);
    let announced = request.body().size_hint().lower();
    let mut body = BodyPieces { body: request.into_body(), received: 0, deadline };
    let verdict = match announced > MOST {
        true => Err(BodyError::TooLarge),
        false => body.read_all(&mut reader).await.map(|()| reader.verdict()),
    };
    let verdict = match verdict {
        Ok(verdict) => verdict,
        Err(BodyError::TooLarge) => {
            if announced <= MOST || !asks_first {
                tokio::spawn(body.discard());
            }
            WebhookVerdict::Refused(WebhookRefusal::TooLarge)
        }
        Err(BodyError::Broken) => return WebResponse::words(400, "the body is broken"),
        Err(BodyError::TooSlow) => return WebResponse::words(408, "it takes too long"),
    };
    answered(state.handler, WebRequest::Hook(verdict)).await
}

/// The body of a request, as it arrives.
struct BodyPieces {
    body: Body,
    /// The number of bytes so far.
    received: u64,
    /// The deadline of a small body.
    deadline: Instant,
}

/// The reason why a body was not read to its end.
enum BodyError {
    TooLarge,
    TooSlow,
    Broken,
}

impl BodyPieces {
    async fn read_all(&mut self, reader: &mut WebhookReader) -> Result<(), BodyError> {
        while let Some(piece) = self.next().await? {
            if self.received > MOST {
                return Err(BodyError::TooLarge);
            }
            reader.read(&piece);
        }
        Ok(())
    }

    /// Reads on while a client sends that has its answer already. A connection that is closed on unread
    /// bytes is reset, and a reset may overtake the answer; a proxy then reports a bad gateway.
    async fn discard(mut self) {
        while let Ok(Some(_)) = self.next().await {
            if self.received > MOST_DISCARDED {
                return;
            }
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let deadline = self.deadline + Duration::from_secs(self.received / RATE);
        loop {
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context));
            match timeout_at(deadline, frame).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => {
                    // Trailers say nothing.
                    let Ok(piece) = frame.into_data() else { continue };
                    self.received += piece.len() as u64;
                    return Ok(Some(piece));
                }
                Ok(Some(Err(_))) => return Err(BodyError::Broken),
                Err(_) => return Err(BodyError::TooSlow),
            }
        }
    }
}

/// Calls the handler on a blocking thread, because it may be slow.
async fn answered(handler: WebHandler, call: WebRequest) -> WebResponse {
    let answer = tokio::task::spawn_blocking(move || handler(call)).await;
    answer.unwrap_or_else(|_| {
        WebResponse::words(500, "the agent panics while it answers, which is a bug")
    })
}

fn known(headers: &HeaderMap) -> RequestHeaders {
    let text = |value: &header::HeaderValue| value.to_str().ok().map(str::to_owned);
    RequestHeaders(
        headers.iter().filter_map(|(name, value)| Some((name.to_string(), text(value)?))).collect(),
    )
}
