//! HTTP listener: one small, quick request for each connection. Plain HTTP; to expose it, put a TLS
//! proxy before it. Knows neither the responses nor who is authorised.

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

use crate::domain::bus::webhook::RequestHeaders;

/// Largest request body, in bytes.
const MOST: usize = 64 << 10;
/// Largest size of the headers in bytes, and their largest number.
const MOST_HEADERS: (usize, usize) = (16 << 10, 64);
/// Time limit to read a request.
const REQUEST: Duration = Duration::from_secs(5);
/// Time limit for a whole connection.
const CONNECTION: Duration = Duration::from_secs(15);
/// Connections served at a time. The others wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// Pause after a failed accept, for instance without free descriptors.
const REST: Duration = Duration::from_millis(200);

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
    Hook {
        /// Headers of the request.
        headers: RequestHeaders,
        /// Body of the request.
        body: Vec<u8>,
    },
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
}

impl IntoResponse for WebResponse {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, self.kind)], self.text).into_response()
    }
}

type WebHandler = Arc<dyn Fn(WebRequest) -> WebResponse + Send + Sync>;

/// A listener that serves in its own thread until it is dropped.
#[derive(Debug)]
pub struct WebServer {
    address: SocketAddr,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl WebServer {
    /// Listens on `bind`. `answer` runs on separate threads, at most one for each connection.
    ///
    /// # Errors
    /// When the address is not available, or the system provides no thread.
    pub fn start(
        bind: SocketAddr,
        answer: impl Fn(WebRequest) -> WebResponse + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind(bind).with_context(|| {
            format!(
                "cannot listen for web hooks on {bind}\n\
                 hint: to see which process uses it: ss -ltnp; to move the agent itself to another \
                 address of that port, restart it"
            )
        })?;
        let address = listener.local_addr().context("cannot read the address for web hooks")?;
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
            .context("cannot start the thread for web hooks")?;
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
            Err(error) => tracing::error!(%error, "web hooks are not accepted"),
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

fn router(answerer: WebHandler) -> Router {
    Router::new()
        .route("/hook", post(hook))
        .route("/healthz", get(|State(answerer)| answered(answerer, WebRequest::Health)))
        .route("/metrics", get(|State(answerer)| answered(answerer, WebRequest::Metrics)))
        .route("/status", get(|State(answerer)| answered(answerer, WebRequest::Status)))
        .fallback(async || {
            WebResponse::words(
                404,
                "there are POST /hook, GET /healthz, GET /metrics and GET /status",
            )
        })
        .method_not_allowed_fallback(async || {
            WebResponse::words(405, "POST goes to /hook, GET to the others")
        })
        .layer(DefaultBodyLimit::max(MOST))
        .with_state(answerer)
}

async fn hook(
    State(answerer): State<WebHandler>,
    Extension(ReadDeadline(deadline)): Extension<ReadDeadline>,
    request: Request,
) -> WebResponse {
    let too_large = || WebResponse::words(413, "request larger than 64 KiB");
    // A client that announces a too large body need not send it.
    if request.body().size_hint().lower() > MOST as u64 {
        return too_large();
    }
    let headers = known(request.headers());
    let body = match timeout_at(deadline, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => body.into(),
        Ok(Err(refused)) if refused.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            return too_large();
        }
        Ok(Err(_)) => return WebResponse::words(400, "the body is broken"),
        Err(_) => return WebResponse::words(408, "it takes too long"),
    };
    answered(answerer, WebRequest::Hook { headers, body }).await
}

/// Calls the handler on a blocking thread, because it may be slow.
async fn answered(answerer: WebHandler, call: WebRequest) -> WebResponse {
    let answer = tokio::task::spawn_blocking(move || answerer(call)).await;
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
