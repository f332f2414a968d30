//! Joins a process with its client: copies both ways, half-closes, sizes, and the final status.

use super::backend::Process;
use super::remote::{Channel, Output, Remote};
use bytes::Bytes;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

/// How long output may still come after the process has ended: a child that it left behind may hold the pipe open.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// How long a client may take to answer the end of its connection.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

async fn copy_out(reader: Option<Box<dyn AsyncRead + Send + Unpin>>, channel: Channel, out: &dyn Output) {
    let Some(mut reader) = reader else { return };
    let mut buffer = vec![0_u8; 32 << 10];
    while let Ok(count) = reader.read(&mut buffer).await {
        // A client that left must not stop the process: what it writes is dropped with the pipe.
        if count == 0 || out.send(channel, Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
            return;
        }
    }
}

/// Runs until the process has ended and all it wrote is sent; then tells the client how it ended.
pub(super) async fn join(process: Process, remote: Remote) {
    let Remote { mut stdin, mut resize, output, status_as_json, mut helpers } = remote;
    let Process { stdin: process_stdin, stdout, stderr, resize: process_resize, exit } = process;
    let mut copies_in = JoinSet::new();
    copies_in.spawn(async move {
        let Some(mut sink) = process_stdin else { return };
        while let Some(bytes) = stdin.recv().await {
            if sink.write_all(&bytes).await.is_err() || sink.flush().await.is_err() {
                return;
            }
        }
        let _ = sink.shutdown().await; // the client closed its half
    });
    copies_in.spawn(async move {
        while let Some(size) = resize.recv().await {
            let Some(sender) = &process_resize else { return };
            if sender.send(size).await.is_err() {
                return;
            }
        }
    });
    let mut exit = exit;
    let outcome = {
        let copies = async {
            tokio::join!(
                copy_out(stdout, Channel::Stdout, output.as_ref()),
                copy_out(stderr, Channel::Stderr, output.as_ref())
            );
        };
        tokio::pin!(copies);
        tokio::select! {
            () = &mut copies => exit.await,
            outcome = &mut exit => {
                let _ = tokio::time::timeout(DRAIN_WITHIN, &mut copies).await;
                outcome
            }
        }
    };
    copies_in.abort_all();
    let status = final_status(&outcome, status_as_json);
    if !status.is_empty() {
        let _ = output.send(Channel::Error, status.into()).await;
    }
    output.finish().await;
    // A WebSocket's end is read as well before the connection is dropped; SPDY has none.
    let _ = tokio::time::timeout(CLOSE_WITHIN, async { while helpers.join_next().await.is_some() {} }).await;
}

/// Tells a client that its command could not be run.
pub(super) async fn refuse(message: &str, remote: Remote) {
    let status = final_status(&Err(message.to_owned()), remote.status_as_json);
    let _ = remote.output.send(Channel::Error, status.into()).await;
    remote.output.finish().await;
}

/// What the error channel carries at the end: a Status from protocol v4 on, a sentence (empty for success) before.
fn final_status(outcome: &Result<i32, String>, as_json: bool) -> Vec<u8> {
    let sentence = match outcome {
        Ok(0) => String::new(),
        Ok(code) => format!("command terminated with non-zero exit code: exit status {code}"),
        Err(message) => message.clone(),
    };
    if !as_json {
        return sentence.into_bytes();
    }
    let status = match outcome {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": sentence,
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}
        }),
        Err(_) => json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: {sentence}"), "details": {"causes": [{"message": sentence}]}}),
    };
    status.to_string().into_bytes()
}
