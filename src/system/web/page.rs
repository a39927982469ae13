//! The routes of the page, and what guards them: only reading, only for hosts that are meant, and nothing that a
//! browser could load from elsewhere, frame or keep. Does not know what a page shows.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{Replaceable, WebHandler, WebRequest, WebResponse, answered, figures};
use crate::domain::page;
use crate::domain::page::hosts::PageHosts;

/// The routes of the page and those of every listener.
pub(super) fn router(hosts: Replaceable<PageHosts>, handler: WebHandler) -> Router {
    let answer = |State(handler), request| answered(handler, request);
    let pages = Router::new()
        .route("/", get(move |state| answer(state, WebRequest::Machine)))
        .route("/fleet", get(move |state| answer(state, WebRequest::Fleet)))
        .fallback(async || {
            let text = "there are /, /fleet, /healthz, /metrics and /status";
            WebResponse::words(404, text)
        })
        .with_state(Arc::clone(&handler));
    figures(handler).merge(pages).layer(middleware::from_fn_with_state(hosts, guard))
}

/// Whether `request` is for one of `hosts`. A request without a host is for none; of one that names two, both count.
fn is_admitted(hosts: &PageHosts, request: &Request) -> bool {
    let named = request.headers().get_all(header::HOST).iter().map(HeaderValue::to_str);
    let named: Vec<&str> = named.map(Result::unwrap_or_default).collect();
    let target = request.uri().authority().map(|authority| authority.as_str());
    !named.is_empty() && named.into_iter().chain(target).all(|host| hosts.admits(host))
}

/// Refuses what is not meant, and tells the browser what it may do with the rest.
async fn guard(
    State(hosts): State<Replaceable<PageHosts>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = if !is_admitted(&hosts.read(), &request) {
        let text =
            "this is not the host of the page; to allow one, name it in allowed_hosts of [page]";
        WebResponse::words(421, text).into_response()
    } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = WebResponse::words(405, "only GET and HEAD").into_response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        response
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    let fixed: [(HeaderName, &'static str); 5] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let policy = format!("{}; frame-ancestors 'none'", page::content_policy());
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}
