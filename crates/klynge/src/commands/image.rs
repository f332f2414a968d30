//! `klynge image`: this node's images, through the agent's socket in the data directory.

use crate::cli::{Failure, Format, Global, ImageCommand, Output};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use object::{Limits, Value, json};
use std::io;
use std::path::Path;
use tokio::net::UnixStream;

/// What is read of an archive at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// The reason that the agent gives where there is no such image.
pub(crate) const NOT_FOUND: &str = "NotFound";

type Body = BoxBody<Bytes, io::Error>;

pub(crate) fn run(global: &Global, command: &ImageCommand, output: &Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        match command {
            ImageCommand::Import { file, name } => {
                let query = name.as_deref().map(|name| format!("?name={}", encoded(name))).unwrap_or_default();
                let body = archive(file).await?;
                print_lines(send(global, Method::POST, &format!("/images/import{query}"), body).await?, output).await
            }
            ImageCommand::Pull { reference } => {
                let path = format!("/images/pull?reference={}", encoded(reference));
                print_lines(send(global, Method::POST, &path, empty()).await?, output).await
            }
            ImageCommand::Ls => list(send(global, Method::GET, "/images", empty()).await?, output).await,
            ImageCommand::Rm { reference } => {
                let path = format!("/images?reference={}", encoded(reference));
                print_lines(send(global, Method::DELETE, &path, empty()).await?, output).await
            }
        }
    })
}

/// Gives the images of an archive to the agent of a data directory; their names.
pub(crate) fn import(global: &Global, file: &Path) -> Result<Vec<String>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    let mut names = Vec::new();
    runtime.block_on(async {
        let answer = send(global, Method::POST, "/images/import", archive(file).await?).await?;
        each_line(answer, |_| {}, |done| names.extend(done.lines().map(str::to_owned))).await
    })?;
    Ok(names)
}

fn empty() -> Body {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed()
}

/// The archive as a body that is read while it is sent.
async fn archive(file: &Path) -> Result<Body, Failure> {
    let path = if file.as_os_str() == "-" { Path::new("/dev/stdin") } else { file };
    if path.is_dir() {
        return Err(Failure::Usage(format!(
            "{} is a directory; give an archive made by `docker save` or an OCI layout tar",
            file.display()
        )));
    }
    let opened = tokio::fs::File::open(path).await;
    let source = opened.map_err(|error| Failure::Failed(format!("cannot open {}: {error}", file.display())))?;
    let chunks = futures_util::stream::try_unfold(source, |mut source| async move {
        use tokio::io::AsyncReadExt as _;
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK_BYTES);
        let length = source.read_buf(&mut chunk).await?;
        Ok::<_, io::Error>((length > 0).then(|| (Frame::data(chunk.freeze()), source)))
    });
    Ok(StreamBody::new(chunks.into_stream()).boxed())
}

async fn send(global: &Global, method: Method, path: &str, body: Body) -> Result<Incoming, Failure> {
    let socket = global.data_dir.join("agent.sock");
    let stream = UnixStream::connect(&socket).await.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::NotRoot(format!("{} may be used by root only; run it with sudo", socket.display())),
        _ => Failure::Unreachable(format!(
            "no agent listens on {}: {error}; start one with `sudo klynge up`, or name its data directory with --data-dir",
            socket.display()
        )),
    })?;
    let broken = |error: hyper::Error| Failure::Unreachable(format!("the agent did not answer: {error}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "agent").body(body);
    let request = request.map_err(|error| Failure::Failed(format!("cannot ask for {path}: {error}")))?;
    Ok(sender.send_request(request).await.map_err(broken)?.into_body())
}

/// Prints each line of the answer as it comes: `progress` to stderr, `done` to stdout; `error` is the failure.
async fn print_lines(body: Incoming, output: &Output) -> Result<(), Failure> {
    each_line(body, |text| output.progress(text), |text| output.line(text)).await
}

async fn each_line(
    mut body: Incoming,
    mut progress: impl FnMut(&str),
    mut done: impl FnMut(&str),
) -> Result<(), Failure> {
    let mut buffer = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::Failed(format!("the agent's answer broke off: {error}")))?;
        buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref()));
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let value = decode(&line)?;
            refused(&value)?;
            if let Some(text) = value.str_at(&["progress"]) {
                progress(text);
            }
            if let Some(text) = value.str_at(&["done"]) {
                done(text);
            }
        }
    }
    Ok(())
}

/// The failure that an answer tells.
fn refused(answer: &Value) -> Result<(), Failure> {
    match (answer.str_at(&["error"]), answer.str_at(&["reason"])) {
        (None, _) => Ok(()),
        (Some(error), Some("NotFound")) => Err(Failure::NotFound(error.to_owned())),
        (Some(error), _) => Err(Failure::Failed(error.to_owned())),
    }
}

async fn list(body: Incoming, output: &Output) -> Result<(), Failure> {
    let collected =
        body.collect().await.map_err(|error| Failure::Failed(format!("the agent's answer broke off: {error}")))?;
    let value = decode(&collected.to_bytes())?;
    refused(&value)?;
    let images = value.get("images").and_then(Value::as_array).unwrap_or_default();
    let text = |image: &Value, key: &str| image.str_at(&[key]).unwrap_or_default().to_owned();
    match output.format {
        Some(Format::Name) => images.iter().for_each(|image| output.line(&text(image, "reference"))),
        Some(Format::Json | Format::Yaml) => {
            output.object(&value);
        }
        None | Some(Format::Wide) => {
            let rows: Vec<Vec<String>> = images
                .iter()
                .map(|image| {
                    let bytes = image.i64_at(&["sizeBytes"]).unwrap_or_default();
                    let id = text(image, "id");
                    let id = id.strip_prefix("sha256:").unwrap_or(&id);
                    let shown = if output.format.is_some() { id } else { id.get(..12).unwrap_or(id) };
                    vec![
                        text(image, "reference"),
                        shown.to_owned(),
                        format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10),
                    ]
                })
                .collect();
            output.table(&["IMAGE", "ID", "SIZE"], &rows);
        }
    }
    Ok(())
}

fn decode(bytes: &[u8]) -> Result<Value, Failure> {
    let decoded = json::decode(bytes, &Limits::default());
    decoded
        .map(|decoded| decoded.value)
        .map_err(|error| Failure::Failed(format!("the agent's answer does not parse: {error}")))
}

/// An image's name in a query: what names hold anyway stays readable.
fn encoded(text: &str) -> String {
    object::percent::encode_name(text)
}
