//! The HTTP listener: one request for each connection, small and quick, or none. Plain HTTP; whoever
//! offers it to the world puts a proxy with TLS before it. What is answered is none of its business, and
//! neither is who may ask.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Bytes, HttpBody};
use axum::extract::{DefaultBodyLimit, Extension, FromRequest, Request, State};
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

use crate::domain::webhook::Headers;

/// The most bytes that a request may carry.
const MOST: usize = 64 << 10;
/// The most bytes that its headers may have, and how many there may be.
const MOST_HEADERS: (usize, usize) = (16 << 10, 64);
/// How long a request may take to be read.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a whole connection may take.
const CONNECTION: Duration = Duration::from_secs(15);
/// How many connections are served at a time. The others wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// How long it waits when the system gives no connection: it has no descriptors left.
const REST: Duration = Duration::from_millis(200);

/// What somebody asks for.
#[derive(Debug)]
pub enum Call {
    /// `GET /healthz`
    Health,
    /// `GET /metrics`
    Metrics,
    /// `GET /status`
    Status,
    /// `POST /hook`
    Hook {
        /// What stands above the body.
        headers: Headers,
        /// The body.
        body: Vec<u8>,
    },
}

/// What they are told.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP's number for it.
    pub status: u16,
    /// The kind of its text.
    pub kind: &'static str,
    /// Its text.
    pub text: String,
}

impl Answer {
    /// A line in words.
    pub fn words(status: u16, text: impl Into<String>) -> Self {
        let text = text.into() + "\n";
        Self { status, kind: "text/plain; charset=utf-8", text }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, self.kind)], self.text).into_response()
    }
}

type Answerer = Arc<dyn Fn(Call) -> Answer + Send + Sync>;

/// A listener that serves until it is dropped, in a thread of its own.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `bind`. `answer` is called on threads of its own, at most as many as there are
    /// connections.
    ///
    /// # Errors
    /// When the address cannot be had, or the system gives no thread.
    pub fn start(
        bind: SocketAddr,
        answer: impl Fn(Call) -> Answer + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind(bind).with_context(|| {
            format!(
                "cannot listen on {bind}, where web hooks should come\n\
                 hint: who has it already is told by: ss -ltnp; to move the agent itself to another \
                 address of that port, restart it"
            )
        })?;
        let address = listener.local_addr().context("cannot tell where web hooks should come")?;
        listener.set_nonblocking(true).context("cannot wait for web hooks")?;
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(CONNECTIONS)
            .build()
            .context("cannot wait for web hooks")?;
        let stop = Arc::new(Notify::new());
        let (stopped, router) = (Arc::clone(&stop), router(Arc::new(answer)));
        let thread = thread::Builder::new()
            .name("web".to_owned())
            .spawn(move || run(runtime, listener, router, &stopped))
            .context("cannot start the thread that hears web hooks")?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.notify_one();
        // So that the address is free again. It panicked or not: it is over.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn run(runtime: Runtime, listener: TcpListener, router: Router, stop: &Notify) {
    runtime.block_on(async {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => drop(tokio::spawn(serve(listener, router))),
            Err(error) => tracing::error!(%error, "web hooks are not heard"),
        }
        stop.notified().await;
    });
    // What is still being answered is not waited for.
    runtime.shutdown_background();
}

async fn serve(listener: tokio::net::TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // It is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = timeout(CONNECTION, serve_one(stream, router.clone()));
                tokio::spawn(async move {
                    // Whoever called sees how it ended.
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

/// When a request must have been read.
#[derive(Clone, Copy)]
struct Deadline(Instant);

async fn serve_one(stream: TcpStream, router: Router) -> hyper::Result<()> {
    let router = router.layer(Extension(Deadline(Instant::now() + REQUEST)));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(MOST_HEADERS.0)
        .max_headers(MOST_HEADERS.1)
        // So nothing that follows a request can be taken for another one.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
}

fn router(answerer: Answerer) -> Router {
    Router::new()
        .route("/hook", post(hook))
        .route("/healthz", get(|State(answerer)| answered(answerer, Call::Health)))
        .route("/metrics", get(|State(answerer)| answered(answerer, Call::Metrics)))
        .route("/status", get(|State(answerer)| answered(answerer, Call::Status)))
        .fallback(async || {
            Answer::words(404, "there are POST /hook, GET /healthz, GET /metrics and GET /status")
        })
        .method_not_allowed_fallback(async || {
            Answer::words(405, "POST goes to /hook, GET to the others")
        })
        .layer(DefaultBodyLimit::max(MOST))
        .with_state(answerer)
}

async fn hook(
    State(answerer): State<Answerer>,
    Extension(Deadline(deadline)): Extension<Deadline>,
    request: Request,
) -> Answer {
    let too_large = || Answer::words(413, "request larger than 64 KiB");
    // Whoever says so beforehand need not send it.
    if request.body().size_hint().lower() > MOST as u64 {
        return too_large();
    }
    let headers = known(request.headers());
    let body = match timeout_at(deadline, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => body.into(),
        Ok(Err(refused)) if refused.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            return too_large();
        }
        Ok(Err(_)) => return Answer::words(400, "the body is broken"),
        Err(_) => return Answer::words(408, "it takes too long"),
    };
    answered(answerer, Call::Hook { headers, body }).await
}

/// Asks whoever knows, who may take a while.
async fn answered(answerer: Answerer, call: Call) -> Answer {
    let answer = tokio::task::spawn_blocking(move || answerer(call)).await;
    answer.unwrap_or_else(|_| Answer::words(500, "answering makes the agent fail, which is a bug"))
}

fn known(headers: &HeaderMap) -> Headers {
    let text = |value: &header::HeaderValue| value.to_str().ok().map(str::to_owned);
    Headers(
        headers.iter().filter_map(|(name, value)| Some((name.to_string(), text(value)?))).collect(),
    )
}
