//! The web app of the demo: one page, its style and script, and the Socket.IO client that npm installed.

use std::io;

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

/// Everything comes from this origin, so the page may as well promise it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'";

pub(crate) async fn run(listener: TcpListener, client: String) -> io::Result<()> {
    let app = Router::new()
        .route("/", get(async || file("text/html", include_str!("page/index.html"))))
        .route("/style.css", get(async || file("text/css", include_str!("page/style.css"))))
        .route("/page.js", get(async || file("text/javascript", include_str!("page/page.js"))))
        .route("/client.js", get(move || async { file("text/javascript", client) }));
    axum::serve(listener, app).await
}

fn file(media_type: &str, body: impl Into<String>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, format!("{media_type}; charset=utf-8")),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY.to_owned()),
    ];
    (headers, body.into()).into_response()
}
