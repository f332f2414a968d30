//! Images: archives of both kinds, layers and whiteouts, what is refused, and pulling from registries.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

#[expect(dead_code, reason = "not every test uses everything")]
mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::Cursor,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use common::{Config, Layer, Machine, blobs, busybox_layer, layout, sha256};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{Request, Response, body::Frame};
use klynge_runtime::{ContainerSpec, Credentials, Error, ImageError, PullOptions};

#[tokio::test(flavor = "multi_thread")]
async fn layers_whiteouts_and_configuration() {
    let machine = Machine::new().await;
    let base = busybox_layer();
    let second = Layer::new()
        .directory("data", 0o755)
        .owned_file("data/a", 0o640, (5, 6), b"a")
        .file("data/b", 0o644, b"b")
        .hard_link("data/b-again", "data/b")
        .directory("old", 0o755)
        .file("old/x", 0o644, b"x")
        .finish();
    let third = Layer::new()
        .file("data/.wh.b", 0o644, b"")
        .file("old/.wh..wh..opq", 0o644, b"")
        .file("old/y", 0o644, b"y")
        .file("tmp/note", 0o644, b"implied parent")
        .finish();
    let config = Config {
        env: vec!["GREETING=hello", "PATH=/bin"],
        entrypoint: vec!["sh", "-c"],
        cmd: vec![
            "echo $GREETING; ls /data /old; stat -c %a:%u:%g /data/a /tmp /data 2>/dev/null || ls -ln /data; id -u; pwd",
        ],
        user: "web",
        working_directory: "/tmp",
        volumes: Vec::new(),
    };
    let archive = layout(&[base, second, third], config, Some("example.com/app:2"));
    let images = machine.runtime.images().import(Cursor::new(archive.clone()), None).await.unwrap();
    assert_eq!(images[0].tags, ["example.com/app:2"]);
    assert_eq!(images[0].layers.len(), 3);
    assert!(images[0].size_bytes > 100_000);
    let again = machine.runtime.images().import(Cursor::new(archive), Some("other:1".into())).await.unwrap();
    assert_eq!(again[0].id, images[0].id);
    assert_eq!(again[0].tags, ["docker.io/library/other:1", "example.com/app:2"]);

    let pod = machine.pod().await;
    let spec = ContainerSpec {
        name: "app".into(),
        image: "example.com/app:2".into(),
        log_path: Some(machine.log_path("app")),
        ..ContainerSpec::default()
    };
    let (exit, log) = machine.run(&pod, spec.clone()).await;
    assert_eq!(exit.code, 0, "{log}");
    let words: Vec<&str> = log.split_whitespace().collect();
    assert_eq!(words[0], "hello");
    assert!(
        !log.contains("\nb\n") && log.contains("b-again") && log.contains("y\n") && !log.contains("\nx\n"),
        "{log}"
    );
    assert!(log.contains("33\n/tmp\n"), "{log}");
    // The third layer only implies /tmp; its mode comes from the first.
    let top = machine.directory.join("layers").join(&images[0].layers[2]);
    assert_eq!(fs::metadata(top.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    let middle = machine.directory.join("layers").join(&images[0].layers[1]);
    let a = fs::metadata(middle.join("data/a")).unwrap();
    assert_eq!((a.uid(), a.gid(), a.mode() & 0o777, a.mtime()), (5, 6, 0o640, 1_700_000_000));
    assert_eq!(fs::metadata(middle.join("data/b")).unwrap().nlink(), 2);

    // Found again by a new agent; in use, then not.
    let reopened = klynge_runtime::Runtime::open(common::options(&machine.directory, &machine.cgroup)).await.unwrap();
    assert_eq!(reopened.images().list().len(), 1);
    let container = pod.start_container(ContainerSpec { args: vec!["sleep 100".into()], ..spec }).await.unwrap();
    let id = images[0].id.clone();
    machine.runtime.remove_image("other:1").await.unwrap();
    assert!(matches!(machine.runtime.remove_image(&id).await, Err(Error::Image(ImageError::InUse(_)))));
    pod.remove_container(&container.id).await.unwrap();
    machine.runtime.remove_image("example.com/app:2").await.unwrap();
    assert!(machine.runtime.images().list().is_empty());
    assert_eq!(fs::read_dir(machine.directory.join("layers")).unwrap().count(), 0);
    pod.destroy().await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_save_archives() {
    let machine = Machine::new().await;
    let layer = busybox_layer();
    let config = serde_json::json!({"architecture": if cfg!(target_arch = "x86_64") {"amd64"} else {"arm64"}, "os": "linux",
        "config": {"Cmd": ["true"]}, "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))]}});
    let config = serde_json::to_vec(&config).unwrap();
    let name = sha256(&config);
    let manifest =
        serde_json::json!([{"Config": format!("{name}.json"), "RepoTags": ["saved:1"], "Layers": ["abc/layer.tar"]}]);
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let archive = |config: &[u8]| {
        Layer::new()
            .file("abc/layer.tar", 0o644, &layer)
            .file(&format!("{name}.json"), 0o644, config)
            .file("manifest.json", 0o644, &manifest)
            .finish()
    };
    let images = machine.runtime.images().import(Cursor::new(common::gzip(&archive(&config))), None).await.unwrap();
    assert_eq!(images[0].id, format!("sha256:{name}"));
    assert_eq!(images[0].tags, ["docker.io/library/saved:1"]);
    assert_eq!(machine.runtime.images().find(&name).unwrap().id, images[0].id);
    let mut wrong = config.clone();
    wrong.push(b' ');
    let error = machine.runtime.images().import(Cursor::new(archive(&wrong)), None).await.unwrap_err();
    assert!(matches!(error, Error::Image(ImageError::Digest { .. })), "{error}");
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_and_hostile_archives_are_refused() {
    let machine = Machine::new().await;
    let outside = machine.directory.join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("target"), "untouched").unwrap();
    let escape = outside.to_string_lossy().into_owned();
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("..", Layer::new().raw_file(b"../../../../tmp/klynge-escaped", b"x").finish()),
        ("inside ..", Layer::new().raw_file(b"a/../../b", b"x").finish()),
        ("hard link", Layer::new().hard_link("passwd", "../../etc/passwd").finish()),
        ("hard link to the host", Layer::new().hard_link("passwd", &escape).finish()),
    ];
    for (what, layer) in hostile {
        let archive = layout(&[layer], Config::default(), Some("bad:1"));
        let result = machine.runtime.images().import(Cursor::new(archive), None).await;
        assert!(result.is_err(), "{what}");
    }
    // Links are followed inside the layer only, as a process in the container would.
    let linked = Layer::new().symlink("link", &escape).file("link/target", 0o644, b"changed").finish();
    let result =
        machine.runtime.images().import(Cursor::new(layout(&[linked], Config::default(), Some("l:1"))), None).await;
    drop(result);
    assert_eq!(fs::read_to_string(outside.join("target")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);

    // Bytes that are no archive are not repeated to the terminal, which would obey them.
    let noise: Vec<u8> = (0..9000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut zipped = vec![0x1f, 0x8b, 8, 0];
    zipped.extend(&noise);
    let text = b"just a text\n".repeat(100);
    for (what, bytes) in [("noise", noise), ("zipped noise", zipped), ("text", text), ("zeros", vec![0; 4096])] {
        let error = machine.runtime.images().import(Cursor::new(bytes), None).await.unwrap_err().to_string();
        assert!(
            error.is_ascii() && !error.contains(|it: char| it.is_control()) && error.len() < 300,
            "{what}: {error:?}"
        );
        assert!(error.contains("docker save") && error.contains(".tar.gz"), "{what}: {error}");
    }

    let mut damaged = layout(&[busybox_layer()], Config::default(), Some("d:1"));
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    for (what, archive) in [
        ("damaged", damaged.clone()),
        ("cut off", damaged[..middle].to_vec()),
        ("empty", Vec::new()),
        ("no image", Layer::new().file("hello", 0o644, b"x").finish()),
        ("escaping archive", Layer::new().raw_file(b"../index.json", b"{}").finish()),
        ("noise", (0..100_000u32).flat_map(|it| (it.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect()),
    ] {
        let error = machine.runtime.images().import(Cursor::new(archive), None).await;
        assert!(error.is_err(), "{what}");
    }
    let bomb = {
        let zeros = vec![0u8; 8 << 20];
        let mut layer = Layer::new();
        for index in 0..40 {
            layer = layer.file(&format!("zeros{index}"), 0o644, &zeros);
        }
        layout(&[layer.finish()], Config::default(), Some("bomb:1"))
    };
    let error = machine.runtime.images().import(Cursor::new(bomb), None).await.unwrap_err().to_string();
    assert!(error.contains("too many bytes"), "{error}");
    assert!(machine.runtime.images().list().iter().all(|it| it.tags == ["docker.io/library/l:1"]));
    let left: Vec<_> =
        fs::read_dir(machine.directory.join("layers")).unwrap().flatten().map(|it| it.file_name()).collect();
    assert!(left.iter().all(|it| !it.to_string_lossy().starts_with('.')), "{left:?}");
    machine.finish().await;
}

type Body = BoxBody<Bytes, std::io::Error>;

/// A registry that wants a token, redirects blobs, and breaks off the first download of each large one.
struct Registry {
    blobs: BTreeMap<String, Vec<u8>>,
    index: String,
    address: String,
    cut: AtomicUsize,
    requests: AtomicUsize,
}

fn full(status: u16, bytes: Vec<u8>) -> Response<Body> {
    let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed();
    Response::builder().status(status).body(body).unwrap()
}

impl Registry {
    fn answer(&self, request: &Request<hyper::body::Incoming>) -> Response<Body> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let path = request.uri().path();
        let header = |name: &str| request.headers().get(name).map(|it| it.to_str().unwrap().to_owned());
        if path == "/token" {
            assert_eq!(request.uri().query(), Some("scope=repository:team/app:pull&service=test"));
            let right = header("authorization").as_deref() == Some("Basic bWU6c2VjcmV0");
            return if right { full(200, br#"{"token":"T"}"#.to_vec()) } else { full(401, vec![]) };
        }
        if let Some(digest) = path.strip_prefix("/storage/") {
            assert_eq!(header("authorization").as_deref(), Some("Bearer T"), "same host keeps the token");
            let bytes = self.blobs[digest].clone();
            let from =
                header("range").map_or(0, |it| it.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
            if bytes.len() > 100_000 && self.cut.fetch_add(1, Ordering::Relaxed) == 0 {
                let half = Bytes::from(bytes[..bytes.len() / 2].to_vec());
                let frames: Vec<Result<Frame<Bytes>, std::io::Error>> =
                    vec![Ok(Frame::data(half)), Err(std::io::Error::other("cut"))];
                return Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames))));
            }
            return full(if from > 0 { 206 } else { 200 }, bytes[from..].to_vec());
        }
        if header("authorization").as_deref() != Some("Bearer T") {
            let mut response = full(401, vec![]);
            let challenge = format!(r#"Bearer realm="http://{}/token",service="test""#, self.address);
            response.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
            return response;
        }
        match path.strip_prefix("/v2/team/app/") {
            Some("manifests/v1") => full(200, self.blobs[&self.index].clone()),
            Some(rest) if rest.starts_with("manifests/sha256:") => {
                full(200, self.blobs[rest.trim_start_matches("manifests/sha256:")].clone())
            }
            Some(rest) if rest.starts_with("blobs/sha256:") => {
                let mut response = full(307, vec![]);
                let to = format!("/storage/{}", rest.trim_start_matches("blobs/sha256:"));
                response.headers_mut().insert("location", to.parse().unwrap());
                response
            }
            _ => full(404, br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.to_vec()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_with_token_redirect_resume_and_platform() {
    let machine = Machine::new().await;
    let extra = Layer::new().file("extra", 0o644, b"x").finish();
    let (mut all, manifest) =
        blobs(&[busybox_layer(), extra], &Config { cmd: vec!["true"], ..Config::default() }, true);
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {"digest": format!("sha256:{}", "0".repeat(64)), "size": 1, "platform": {"os": "linux", "architecture": "s390x"}},
        {"digest": format!("sha256:{manifest}"), "size": 1, "platform": {"os": "linux", "architecture": architecture}}]});
    let index = serde_json::to_vec(&index).unwrap();
    let index_digest = sha256(&index);
    all.insert(index_digest.clone(), index);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let registry = Arc::new(Registry {
        blobs: all,
        index: index_digest.clone(),
        address: address.clone(),
        cut: AtomicUsize::new(0),
        requests: AtomicUsize::new(0),
    });
    let served = registry.clone();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let served = served.clone();
            let service = hyper::service::service_fn(move |request| {
                let response = served.answer(&request);
                async move { Ok::<_, std::convert::Infallible>(response) }
            });
            let stream = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service));
        }
    });
    let images = machine.runtime.images();
    let name = format!("{address}/team/app:v1");
    let denied = images.pull(&name, PullOptions::default()).await;
    assert!(matches!(denied, Err(Error::Image(ImageError::Denied { .. }))), "{denied:?}");
    let wrong = Credentials { username: "me".into(), password: "wrong".into() };
    let right = Credentials { username: "me".into(), password: "secret".into() };
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let options = PullOptions {
        credentials: vec![wrong, right],
        progress: Some(Arc::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        })),
        ..PullOptions::default()
    };
    let (one, two) = tokio::join!(images.pull(&name, options.clone()), images.pull(&name, options.clone()));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one, two);
    assert_eq!(registry.cut.load(Ordering::Relaxed), 2, "the cut download was resumed once");
    assert_eq!(one.digests, [format!("{address}/team/app@sha256:{index_digest}")]);
    assert!(seen.load(Ordering::Relaxed) > 2);
    let before = registry.requests.load(Ordering::Relaxed);
    images.pull(&name, options.clone()).await.unwrap();
    assert_eq!(registry.requests.load(Ordering::Relaxed), before, "an image that is here asks nobody");
    let always = PullOptions { always: true, ..options.clone() };
    images.pull(&name, always).await.unwrap();
    images.pull(&format!("{address}/team/app@sha256:{index_digest}"), options.clone()).await.unwrap();
    let missing = images.pull(&format!("{address}/team/app:v2"), options).await;
    assert!(matches!(missing, Err(Error::Image(ImageError::NotFound { .. }))), "{missing:?}");
    server.abort();
    let gone = images.pull("127.0.0.1:1/x:1", PullOptions::default()).await.unwrap_err().to_string();
    assert!(gone.contains("dial tcp 127.0.0.1:1"), "{gone}");
    let invalid = images.pull("Not Valid", PullOptions::default()).await;
    assert!(matches!(invalid, Err(Error::Image(ImageError::InvalidReference { .. }))));

    let pod = machine.pod().await;
    let spec = ContainerSpec {
        image: name,
        log_path: Some(machine.log_path("pulled")),
        command: vec!["cat".into(), "/extra".into()],
        ..ContainerSpec::default()
    };
    assert_eq!(machine.run(&pod, spec).await.1, "x\n");
    pod.destroy().await.unwrap();
    machine.finish().await;
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Debian's registry, its storage written as it would write it itself.
#[tokio::test(flavor = "multi_thread")]
async fn pulls_from_docker_distribution() {
    let Some(program) = ["/usr/bin/docker-registry", "/usr/bin/registry"].into_iter().find(|it| Path::new(it).exists())
    else {
        eprintln!("NOT TESTED against docker-registry: the package docker-registry is not installed");
        return;
    };
    let machine = Machine::new().await;
    let storage = machine.directory.join("registry");
    let (all, manifest) = blobs(&[busybox_layer()], &Config::default(), true);
    let write = |path: String, bytes: &[u8]| {
        let path = storage.join("docker/registry/v2").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    for (digest, bytes) in &all {
        let link = format!("sha256:{digest}");
        write(format!("blobs/sha256/{}/{digest}/data", &digest[..2]), bytes);
        write(format!("repositories/busy/_layers/sha256/{digest}/link"), link.as_bytes());
    }
    let link = format!("sha256:{manifest}");
    write(format!("repositories/busy/_manifests/revisions/sha256/{manifest}/link"), link.as_bytes());
    write("repositories/busy/_manifests/tags/1/current/link".into(), link.as_bytes());
    write(format!("repositories/busy/_manifests/tags/1/index/sha256/{manifest}/link"), link.as_bytes());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
        storage.display()
    );
    fs::write(machine.directory.join("registry.yml"), config).unwrap();
    let child = Command::new(program)
        .arg("serve")
        .arg(machine.directory.join("registry.yml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _registry = Killed(child);
    common::until("the registry listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    let image =
        machine.runtime.images().pull(&format!("localhost:{port}/busy:1"), PullOptions::default()).await.unwrap();
    assert_eq!(image.digests, [format!("localhost:{port}/busy@sha256:{manifest}")]);
    machine.finish().await;
}
