//! The HTTP server. Whatever a client does is bounded: how many there are, how long one may take, and
//! how large its request may be. A connection serves one request, as a scrape every few seconds needs.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::{exposition, health, metrics};
use crate::error::{Error, ErrorKind, Result};
use crate::service::Observed;

/// Connections at the same time; others wait in the system's queue.
const CONNECTIONS: usize = 32;
/// How long one may last, and its request's head take to come.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// The most bytes of a request's head, and the most headers in it.
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
/// After an error of `accept` (no file descriptor is left, say).
const PAUSE: Duration = Duration::from_millis(200);
/// How long answers under way may take when the relay has ended.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// Listens already, and does not answer yet.
pub(crate) struct Server {
    listener: TcpListener,
}

impl Server {
    /// Listens. What keeps it from that is an error of configuration.
    pub(crate) async fn bind(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| refuse(address, error))?;
        let address = listener.local_addr().map_err(|error| refuse(address, error))?;
        tracing::info!(%address, "answers over HTTP: /metrics, /healthz, /readyz");
        Ok(Server { listener })
    }

    /// Answers until `stop` turns true, and then ends what it has begun.
    pub(crate) async fn run(self, observed: Arc<Observed>, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (self.listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                accepted = accepted => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    let observed = Arc::clone(&observed);
                    connections.spawn(async move {
                        serve(stream, observed).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        drop(self.listener);
        let all = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(FAREWELL_LIMIT, all).await;
    }
}

fn refuse(address: SocketAddr, error: std::io::Error) -> Error {
    let why = match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another process, perhaps another relay, listens there already: give [admin] listen another port"
        }
        std::io::ErrorKind::PermissionDenied => {
            "this user may not listen there: give [admin] listen a port of 1024 or above"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: give [admin] listen one of its own, or 0.0.0.0 for all"
        }
        _ => "[admin] listen can't be used",
    };
    Error::new(ErrorKind::Configuration, "listen", why).with("address", address).caused_by(error)
}

async fn serve(stream: TcpStream, observed: Arc<Observed>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &observed);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).keep_alive(false);
    http.max_buf_size(HEAD_BYTES).max_headers(HEADERS);
    let served = http.serve_connection(TokioIo::new(stream), answer);
    match tokio::time::timeout(CONNECTION_LIMIT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a request over HTTP was not answered"),
        Err(_) => tracing::debug!("a request over HTTP took too long"),
    }
}

fn answer(method: &Method, path: &str, observed: &Observed) -> Response<String> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_string());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/metrics" => response(StatusCode::OK, exposition::CONTENT_TYPE, metrics::render(observed)),
        "/healthz" => json(health::live(observed)),
        "/readyz" => json(health::ready(observed)),
        _ => {
            let known = "here are /metrics, /healthz and /readyz\n";
            response(StatusCode::NOT_FOUND, TEXT, known.to_string())
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn json((well, object): (bool, serde_json::Value)) -> Response<String> {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response(status, "application/json", format!("{object}\n"))
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
