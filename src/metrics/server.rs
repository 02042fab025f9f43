//! The HTTP server (edge): `/metrics` for Prometheus, `/healthz` and `/readyz` for probes.
//!
//! Whoever asks costs one report of the driver; connections are few and short, so that nobody on
//! the network can make them many.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::render;
use crate::speaker::socket;

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 8;
/// A caller that says nothing, or reads nothing, is let go after this.
const PATIENCE: Duration = Duration::from_secs(5);
/// A driver that has not answered after this is not healthy.
const HEALTHY: Duration = Duration::from_secs(5);
/// <https://prometheus.io/docs/specs/om/open_metrics_spec/>, "Protocol Negotiation".
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Listens, if wanted.
///
/// # Errors
///
/// If the address is taken, or not this machine's.
pub async fn bind(address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    let listener = TcpListener::bind(address).await;
    Ok(Some(listener.with_context(|| format!("cannot serve metrics at {address}"))?))
}

/// Serves for good; without a listener, nobody.
pub async fn serve(listener: Option<TcpListener>, reports: mpsc::Sender<socket::Request>) {
    let Some(listener) = listener else { return std::future::pending().await };
    let rooms = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(room) = Arc::clone(&rooms).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the metrics port");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let reports = reports.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, reports.clone()));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // A caller that hangs up or stalls has had its chance.
            let _ = timeout(PATIENCE * 2, connection).await;
            drop(room);
        });
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(
    request: Request<Incoming>,
    reports: mpsc::Sender<socket::Request>,
) -> Result<Answer, Infallible> {
    if request.method() != Method::GET {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n"));
    }
    let path = request.uri().path();
    if !["/metrics", "/healthz", "/readyz"].contains(&path) {
        let known = "there are /metrics, /healthz and /readyz\n";
        return Ok(plain(StatusCode::NOT_FOUND, known));
    }
    let Some(report) = timeout(HEALTHY, report(&reports)).await.ok().flatten() else {
        let late = "the driver does not answer\n";
        return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, late));
    };
    Ok(match path {
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" if report["election"]["deadline_ms"].is_null() => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "this node has no session\n")
        }
        "/readyz" => plain(StatusCode::OK, "ok\n"),
        _ => metrics(&report),
    })
}

fn metrics(report: &Value) -> Answer {
    match render(report) {
        Ok(text) => answered(StatusCode::OK, OPEN_METRICS, text),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

async fn report(reports: &mpsc::Sender<socket::Request>) -> Option<Value> {
    let (reply, report) = oneshot::channel();
    reports.send(socket::Request { ask: socket::Ask::Status, reply }).await.ok()?;
    serde_json::from_str(&report.await.ok()?).ok()
}

fn plain(status: StatusCode, text: &str) -> Answer {
    answered(status, "text/plain; charset=utf-8", text.to_owned())
}

fn answered(status: StatusCode, kind: &'static str, text: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// A server whose driver gives always the same report.
    async fn server(report: &'static str) -> SocketAddr {
        let listener = bind(Some((Ipv4Addr::LOCALHOST, 0).into())).await.unwrap();
        let address = listener.as_ref().unwrap().local_addr().unwrap();
        let (requests, mut asked) = mpsc::channel::<socket::Request>(1);
        tokio::spawn(serve(listener, requests));
        tokio::spawn(async move {
            while let Some(request) = asked.recv().await {
                request.reply.send(report.to_owned()).unwrap();
            }
        });
        address
    }

    async fn ask(server: SocketAddr, said: &str) -> String {
        let mut stream = TcpStream::connect(server).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_prometheus_and_probes() {
        let server = server(r#"{"node": "n1", "election": {"deadline_ms": null}}"#).await;
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: n1\r\n\r\n");
        let metrics = ask(server, &get("/metrics")).await;
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.contains("herald_info{node=\"n1\",version=\"\"} 1.0\n"), "{metrics}");
        assert!(ask(server, &get("/healthz")).await.starts_with("HTTP/1.1 200 "));
        let ready = ask(server, &get("/readyz")).await;
        assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
        assert!(ready.ends_with("this node has no session\n"), "{ready}");
        assert!(ask(server, &get("/")).await.starts_with("HTTP/1.1 404 "));
        let post = "POST /metrics HTTP/1.1\r\nHost: n1\r\nContent-Length: 0\r\n\r\n";
        assert!(ask(server, post).await.starts_with("HTTP/1.1 405 "));
        assert!(ask(server, "no HTTP at all\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    }

    #[tokio::test]
    async fn idle_callers_do_not_shut_others_out_for_good() {
        let server = server(r#"{"election": {"deadline_ms": 5}}"#).await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(TcpStream::connect(server).await.unwrap());
        }
        let waiting = ask(server, "GET /readyz HTTP/1.1\r\nHost: n1\r\n\r\n");
        let answer = timeout(PATIENCE * 6, waiting).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}
