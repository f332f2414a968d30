//! Responses: headers, warnings, errors as Status objects, and gzip for large bodies.

use super::body::Answer;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY, WARNING};
use http::{Response, StatusCode};
use object::{Status, json};
use std::io::Write;

/// Upstream compresses answers above this size.
const GZIP_MIN_BYTES: u64 = 128 * 1024;

/// A body with a code and a type.
pub(crate) fn answer(code: u16, content_type: &'static str, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A Status object; always JSON, which every client reads by its Content-Type.
pub(crate) fn failure(status: &Status) -> Response<Answer> {
    let mut body = json::encode(&status.to_value());
    body.push(b'\n');
    let mut response = answer(status.code, "application/json", Answer::bytes(body));
    if status.retry_after_seconds > 0 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(status.retry_after_seconds));
    }
    response
}

/// Plain text.
pub(crate) fn text(code: u16, text: impl Into<Bytes>) -> Response<Answer> {
    answer(code, "text/plain; charset=utf-8", Answer::bytes(text))
}

/// Adds a Warning header for each sentence.
pub(crate) fn warn(response: &mut Response<Answer>, warnings: &[String]) {
    for warning in warnings {
        let escaped: String = warning
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] })
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{escaped}\"").as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// Compresses a large answer of known length for a client that accepts it.
pub(crate) async fn compress(response: Response<Answer>, accept_encoding: &str) -> Response<Answer> {
    let accepts = accept_encoding.split(',').any(|one| one.split(';').next().unwrap_or_default().trim() == "gzip");
    let large = |length: u64| accepts && length > GZIP_MIN_BYTES;
    let (mut parts, body) = response.into_parts();
    let pieces: Vec<Bytes> = match body {
        Answer::Whole(Some(bytes)) if large(bytes.len() as u64) => vec![bytes],
        Answer::Pieces(pieces, total) if large(total) => pieces.collect(),
        other => return Response::from_parts(parts, other),
    };
    // Compression is work for a while: it leaves the threads that serve sockets.
    let compressed = tokio::task::spawn_blocking(move || {
        let mut encoder = GzEncoder::new(Vec::with_capacity(GZIP_MIN_BYTES as usize), Compression::fast());
        for piece in &pieces {
            if encoder.write_all(piece).is_err() {
                return Err(pieces);
            }
        }
        encoder.finish().map_err(|_| pieces)
    })
    .await;
    match compressed {
        Ok(Ok(bytes)) => {
            parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            parts.headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
            Response::from_parts(parts, Answer::bytes(bytes))
        }
        Ok(Err(pieces)) => Response::from_parts(parts, Answer::pieces(pieces)),
        Err(_) => failure(&Status::internal("compression failed")),
    }
}
