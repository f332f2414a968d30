//! The process itself: its threads, its timers, and what its agent says.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::engine::{DATAGRAM_BYTES_MAX, Engine, TICK};
use super::error::Error;
use super::inward::Inward;
use super::protocol::Message;
use super::{LINGER, REST_SOCKET, Tunnel, inward, outward};
use crate::netlink::PublicKey;
use crate::pod_net::PrivateKey;
use crate::process::{self, Held as _, Link};

/// How nice the process is.
const PRIORITY: i32 = -10;
/// How often one that rests looks whether it works again, or ends.
const REST_LOOK: Duration = Duration::from_millis(100);

/// Encrypts until it is told to end (SIGTERM); the agent that started it is at the other end of the standard input.
///
/// # Errors
/// It was not started by an agent of its version, or cannot use what it was given.
pub fn serve(directory: &Path) -> Result<(), Error> {
    let started = process::start_up::<Tunnel>(directory)?;
    let key = PrivateKey::load(&started.setup.key_file).map_err(|error| Error::Key(error.to_string()))?;
    if key.public_key() != started.setup.public_key {
        return Err(Error::OtherKey);
    }
    let engine = Arc::new(Engine::new(started.held.try_clone()?, *key.bytes(), directory)?);
    // Packets go before most other work, as the kernel's own do. Not everyone may ask for it.
    let _ = rustix::process::setpriority_process(None, PRIORITY);
    process::give_up_rights();
    let threads = [("outward", outward::run as fn(&Engine)), ("inward", inward::run)];
    for (name, run) in threads {
        let engine = Arc::clone(&engine);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&engine))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let ticking = tokio::spawn(tick(Arc::clone(&engine)));
        let rest = directory.join(REST_SOCKET);
        let follow = |link| tokio::spawn(follow(link, Arc::clone(&engine), rest.clone()));
        process::attend(started, follow).await?;
        if !engine.works() {
            tokio::time::sleep(LINGER).await;
        }
        ticking.abort();
        engine.end();
        Ok(())
    })
}

async fn tick(engine: Arc<Engine>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        if engine.works() {
            engine.tick();
        }
    }
}

/// Takes what belongs to sessions of this process from the one that has its place, until it works again or ends.
fn rest(engine: &Engine, socket: &UnixDatagram) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut inward = Inward::new();
    while !engine.works() {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        inward.take(engine, &engine.table(), buffer.get(..length).unwrap_or_default(), None);
        inward.flush(engine);
    }
}

fn begin_rest(engine: &Arc<Engine>, path: &Path) -> std::io::Result<()> {
    let _ = std::fs::remove_file(path); // of one that rested before
    let socket = UnixDatagram::bind(path)?;
    socket.set_read_timeout(Some(REST_LOOK))?;
    engine.set_working(false);
    let engine = Arc::clone(engine);
    std::thread::Builder::new().name("rest".to_owned()).spawn(move || rest(&engine, &socket))?;
    Ok(())
}

/// Does what an agent says until it goes; what it said last stays.
async fn follow(mut link: Link<Tunnel>, engine: Arc<Engine>, rest: std::path::PathBuf) {
    let mut gone: Option<BTreeSet<PublicKey>> = None;
    while let Some(message) = link.next().await {
        match message {
            Message::Set(peer) => {
                if let Some(gone) = &mut gone {
                    gone.remove(&peer.key);
                }
                engine.change_peers(|peers| peers.set(&peer));
            }
            Message::Remove(key) => engine.change_peers(|peers| peers.remove(&key)),
            Message::Begin => gone = Some(engine.change_peers(|peers| peers.keys().collect())),
            Message::Commit => {
                engine.change_peers(|peers| gone.take().into_iter().flatten().for_each(|key| peers.remove(&key)));
            }
            Message::List(number) => {
                let all = engine.change_peers(|peers| peers.list());
                let mut answers: Vec<Message> = all.into_iter().map(Message::Set).collect();
                answers.push(Message::Synced(number));
                if link.send_messages(&answers).await.is_err() {
                    return;
                }
            }
            Message::Rest => {
                if let Err(error) = begin_rest(&engine, &rest) {
                    tracing::warn!(%error, "what comes for this process's sessions is lost");
                    engine.set_working(false);
                }
            }
            Message::Resume => engine.set_working(true),
            Message::Sync(number) => {
                engine.publish();
                // The first one says that all peers have been told.
                engine.set_working(true);
                if link.send_messages([&Message::Synced(number)]).await.is_err() {
                    return;
                }
            }
            Message::Setup(_) | Message::Synced(_) => {
                tracing::warn!("the agent sends what only this process may send");
                return;
            }
        }
    }
}
