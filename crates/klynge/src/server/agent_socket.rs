//! The agent's socket in the data directory: this node's images, for `klynge image` as root.

use crate::commands::image::NOT_FOUND;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use object::{Map, Value, json};
use runtime::{Progress, PullOptions, Runtime};
use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A larger archive is refused.
const ARCHIVE_BYTES_MAX: u64 = 64 << 30;
/// Lines that wait for a slow reader; progress is dropped past it, results wait.
const LINES_MAX: usize = 64;

type Lines = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;

/// The listening socket.
pub(super) struct AgentSocket {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl AgentSocket {
    /// Listens on `agent.sock`; only root may connect.
    pub(super) fn start(data_dir: &Path, runtime: Runtime) -> io::Result<Self> {
        let path = data_dir.join("agent.sock");
        // The store's lock says that no other server runs here, so this is a left-over.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let uploads = data_dir.join("uploads");
        let _ = fs::remove_dir_all(&uploads); // archives of a server that was killed
        fs::create_dir_all(&uploads)?;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (runtime, uploads) = (runtime.clone(), uploads.clone());
                let service = service_fn(move |request| answer(request, runtime.clone(), uploads.clone()));
                tokio::spawn(async move {
                    if let Err(error) =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                    {
                        tracing::debug!(%error, "a connection to the agent's socket broke off");
                    }
                });
            }
        });
        Ok(AgentSocket { path, task })
    }

    /// Closes it.
    pub(super) fn stop(self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path); // the next start removes it otherwise
    }
}

type Body = StreamBody<tokio_lines::Lines>;

async fn answer(request: Request<Incoming>, runtime: Runtime, uploads: PathBuf) -> Result<Response<Body>, Infallible> {
    let (lines, received) = mpsc::channel(LINES_MAX);
    tokio::spawn(async move {
        let outcome = work(request, &runtime, &uploads, &lines).await;
        let last = match outcome {
            Ok(last) => last,
            Err(refusal) => refusal.to_value(),
        };
        let _ = lines.send(Ok(line(&last))).await; // the reader has gone: nobody to tell
    });
    Ok(Response::new(StreamBody::new(tokio_lines::Lines(received))))
}

mod tokio_lines {
    //! A channel as a stream of frames.
    use super::{Bytes, Frame, Infallible, mpsc};
    use futures_util::Stream;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    pub(super) struct Lines(pub(super) mpsc::Receiver<Result<Frame<Bytes>, Infallible>>);

    impl Stream for Lines {
        type Item = Result<Frame<Bytes>, Infallible>;
        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.0.poll_recv(context)
        }
    }
}

fn member(key: &str, text: impl Into<String>) -> Value {
    Value::Object([(key, Value::from(text.into()))].into_iter().collect())
}

fn line(value: &Value) -> Frame<Bytes> {
    let mut bytes = json::encode(value);
    bytes.push(b'\n');
    Frame::data(bytes.into())
}

/// Why nothing was done.
struct Refusal {
    message: String,
    /// There is no such image.
    absent: bool,
}

impl Refusal {
    fn to_value(&self) -> Value {
        let mut value = member("error", self.message.clone());
        if self.absent {
            value.set(&["reason"], NOT_FOUND.into());
        }
        value
    }
}

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Refusal { message, absent: false }
    }
}

impl From<runtime::Error> for Refusal {
    fn from(error: runtime::Error) -> Self {
        let absent = matches!(
            error,
            runtime::Error::Image(runtime::ImageError::NotFound { .. } | runtime::ImageError::NotPresent(_))
        );
        Refusal { message: error.to_string(), absent }
    }
}

async fn work(request: Request<Incoming>, runtime: &Runtime, uploads: &Path, lines: &Lines) -> Result<Value, Refusal> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let query = request.uri().query().unwrap_or_default().to_owned();
    match (method, path.as_str()) {
        (Method::GET, "/images") => Ok(list(runtime)),
        (Method::POST, "/images/import") => {
            Ok(import(request.into_body(), runtime, uploads, parameter(&query, "name")).await?)
        }
        (Method::POST, "/images/pull") => Ok(pull(runtime, &required(&query, "reference")?, lines.clone()).await?),
        (Method::DELETE, "/images") => {
            let reference = required(&query, "reference")?;
            match runtime.remove_image(&reference).await {
                Ok(()) => {}
                Err(runtime::Error::Image(runtime::ImageError::NotPresent(name))) => {
                    return Err(Refusal {
                        message: format!(
                            "there is no image {name:?} on this machine; `klynge image ls` lists those that are"
                        ),
                        absent: true,
                    });
                }
                Err(runtime::Error::Image(runtime::ImageError::InUse(id))) => {
                    let pods: Vec<String> = runtime.pods_of_image(&id).await?.into_iter().collect();
                    return Err(in_use(&reference, &pods).into());
                }
                Err(other) => return Err(other.into()),
            }
            Ok(member("done", format!("removed {reference}")))
        }
        (method, path) => {
            Err(format!("the agent's socket knows no {method} {path}; are server and command of one release?").into())
        }
    }
}

/// Why an image stays, with the first few of the pods that use it.
fn in_use(reference: &str, pods: &[String]) -> String {
    let shown = pods.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let more = if pods.len() > 5 { format!(" and {} more", pods.len() - 5) } else { String::new() };
    format!(
        "image {reference} is in use by containers of the pods {shown}{more}; delete these first (kubectl delete pod)"
    )
}

fn list(runtime: &Runtime) -> Value {
    let mut rows = Vec::new();
    for image in runtime.images().list() {
        let names = if image.tags.is_empty() { image.digests.clone() } else { image.tags.clone() };
        for reference in names {
            let mut row = Map::new();
            row.insert("reference", reference);
            row.insert("id", image.id.clone());
            row.insert("sizeBytes", i64::try_from(image.size_bytes).unwrap_or(i64::MAX));
            rows.push(Value::Object(row));
        }
    }
    Value::Object([("images", Value::Array(rows))].into_iter().collect())
}

async fn import(mut body: Incoming, runtime: &Runtime, uploads: &Path, name: Option<String>) -> Result<Value, String> {
    let failed = |error: io::Error| format!("cannot keep the archive: {error}");
    let upload = tempfile::NamedTempFile::new_in(uploads).map_err(failed)?;
    let mut file = tokio::fs::File::from_std(upload.reopen().map_err(failed)?);
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the archive broke off: {error}"))?;
        let Some(data) = frame.data_ref() else { continue };
        length += data.len() as u64;
        if length > ARCHIVE_BYTES_MAX {
            return Err(format!("the archive is larger than {ARCHIVE_BYTES_MAX} bytes"));
        }
        file.write_all(data).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    let images = runtime.images().import_file(upload.path(), name).await.map_err(|error| error.to_string())?;
    let names: Vec<String> = images
        .iter()
        .flat_map(|image| if image.tags.is_empty() { vec![image.id.clone()] } else { image.tags.clone() })
        .collect();
    Ok(member("done", names.join("\n")))
}

async fn pull(runtime: &Runtime, reference: &str, lines: Lines) -> Result<Value, Refusal> {
    let progress = move |progress: Progress| {
        let _ = lines.try_send(Ok(line(&member("progress", describe(&progress))))); // dropped when nobody reads fast enough
    };
    let options = PullOptions { always: true, progress: Some(Arc::new(progress)), ..PullOptions::default() };
    let image = runtime.images().pull(reference, options).await?;
    Ok(member("done", format!("{reference} {}", image.id)))
}

fn describe(progress: &Progress) -> String {
    let short = |layer: &str| layer.trim_start_matches("sha256:").chars().take(12).collect::<String>();
    match progress {
        Progress::Downloading { layer, done_bytes, total_bytes } => {
            format!("{}: {:.1} of {:.1} MB", short(layer), *done_bytes as f64 / 1e6, *total_bytes as f64 / 1e6)
        }
        Progress::Unpacked { layer } => format!("{}: unpacked", short(layer)),
    }
}

fn required(query: &str, key: &str) -> Result<String, String> {
    parameter(query, key).ok_or_else(|| format!("the request lacks {key}"))
}

/// A percent-decoded parameter of a query.
fn parameter(query: &str, key: &str) -> Option<String> {
    let raw = query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))?;
    Some(object::percent::decode(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_in_use_names_its_pods() {
        let pods: Vec<String> = (0..7).map(|number| format!("default/p{number}")).collect();
        let said = in_use("x:1", &pods);
        assert!(said.contains("image x:1") && said.contains("default/p0, ") && said.contains("and 2 more"), "{said}");
        assert!(in_use("x:1", &pods[..1]).contains("the pods default/p0; delete"));
    }

    #[test]
    fn parameters_are_decoded() {
        assert_eq!(parameter("a=1&name=x%2Fy%3A1", "name").as_deref(), Some("x/y:1"));
        assert_eq!(parameter("a=1", "name"), None);
        assert_eq!(parameter("name=%G0", "name").as_deref(), Some("%G0"));
    }
}
