//! Requests that are passed on to a node: paths, errors, upgrades byte for byte.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use async_trait::async_trait;
use client::{PatchKind, Request, Verb, WriteOptions};
use klynge_api::{Connection, NodeConnector};
use std::io;
use std::sync::Arc;
use support::{parse, start_with, target};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// A node that answers with the request's head, or echoes after an upgrade.
struct Node;

#[async_trait]
impl NodeConnector for Node {
    async fn connect(&self, node: &str) -> io::Result<Box<dyn Connection>> {
        if node != "n1" {
            return Err(io::Error::other("no such node"));
        }
        let (ours, theirs) = tokio::io::duplex(4096);
        tokio::spawn(answer(theirs));
        Ok(Box::new(ours))
    }
}

async fn answer(mut stream: DuplexStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    if !head.contains("upgrade: echo") {
        let answer =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\ncontent-type: text/plain\r\n\r\n{head}", head.len());
        return stream.write_all(answer.as_bytes()).await;
    }
    stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n").await?;
    let (mut from, mut to) = tokio::io::split(stream);
    tokio::io::copy(&mut from, &mut to).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_and_streams_reach_the_node() {
    let cluster = start_with(tempfile::tempdir().unwrap(), Arc::new(Node)).await;
    let admin = cluster.admin();
    let create = |resource, text: &str| Request {
        target: target("", "v1", resource, "default", ""),
        verb: Verb::Create(parse(text), WriteOptions::default()),
    };
    admin.call(create("serviceaccounts", "{metadata: {name: default}}")).await.unwrap();
    for node in ["n1", "n2"] {
        let text = format!("{{metadata: {{name: {node}}}}}");
        let request = Request {
            target: target("", "v1", "nodes", "", ""),
            verb: Verb::Create(parse(&text), WriteOptions::default()),
        };
        admin.call(request).await.unwrap();
    }
    for (name, node) in [("gone", "n3"), ("p", "n1"), ("lost", "n2"), ("waits", "")] {
        let text = format!(
            "{{metadata: {{name: {name}}}, spec: {{nodeName: '{node}', containers: [{{name: a, image: i}}, {{name: b, image: i}}]}}}}"
        );
        admin.call(create("pods", &text)).await.unwrap();
    }
    let pods = "/api/v1/namespaces/default/pods";
    let cases = [
        (
            format!("{pods}/p/log?container=a&follow=true&tailLines=3"),
            200,
            "get /containerlogs/default/p/a?follow=true&taillines=3 ",
        ),
        (format!("{pods}/p/log"), 400, "a container name must be specified for pod p, choose one of: [a b]"),
        (format!("{pods}/p/log?container=c"), 400, "container c is not valid for pod p"),
        (format!("{pods}/waits/log?container=a"), 204, ""),
        (format!("{pods}/waits/log"), 400, "a container name must be specified for pod waits, choose one of: [a b]"),
        (format!("{pods}/waits/exec?container=a&command=x"), 400, "pod waits does not have a host assigned"),
        (format!("{pods}/none/log?tailLines=x"), 400, "strconv.ParseInt: parsing \\\"x\\\": invalid syntax"),
        (
            format!("{pods}/p/log?tailLines=-1&limitBytes=0&sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z"),
            422,
            "PodLogOptions \\\"p\\\" is invalid: [tailLines: Invalid value: -1: must be greater than or equal to 0, \
             limitBytes: Invalid value: 0: must be greater than 0, []: Forbidden: at most one of",
        ),
        (format!("{pods}/gone/log?container=a"), 404, "nodes \\\"n3\\\" not found"),
        (format!("{pods}/lost/log?container=a"), 503, "error trying to reach service: no such node"),
        (format!("{pods}/none/log"), 404, "pods \\\"none\\\" not found"),
        (
            format!("{pods}/p/exec?container=b&command=sh&command=-c&stdin=true&stdout=1"),
            200,
            "get /exec/default/p/b?input=1&output=1&command=sh&command=-c ",
        ),
        (format!("{pods}/p/portforward?ports=80"), 200, "get /portforward/default/p?port=80 "),
    ];
    for (path, code, text) in cases {
        let answer = cluster
            .send(
                "GET",
                &path,
                &[
                    ("authorization", "Bearer x"),
                    ("impersonate-user", "admin"),
                    ("impersonate-group", "system:masters"),
                ],
                "",
            )
            .await;
        assert_eq!(answer.code, code, "{path}: {}", answer.text());
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
        assert!(
            !answer.text().contains("bearer") && !answer.text().contains("impersonate"),
            "credentials were passed on: {}",
            answer.text()
        );
    }
    let headers = [("connection", "Upgrade"), ("upgrade", "echo")];
    let path = format!("{pods}/p/exec?container=a&command=cat");
    let response = cluster.open("POST", &path, &headers, bytes::Bytes::new()).await;
    assert_eq!(response.status(), 101);
    let mut stream = hyper_util::rt::TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"there and back").await.unwrap();
    let mut back = [0; 14];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"there and back");
    // Somebody who may only read pods may not open a stream, by whichever method.
    let patch = Verb::Patch(PatchKind::Merge, parse("{metadata: {labels: {a: b}}}"), WriteOptions::default());
    admin.call(Request { target: target("", "v1", "pods", "default", "p"), verb: patch }).await.unwrap();
    let bob = cluster.issue("bob", "people");
    let response = cluster.open_as(&bob, "GET", &path, &[], bytes::Bytes::new()).await;
    assert_eq!(response.status(), 403);
    drop(stream);
    cluster.server.stop().await;
}
