//! The process itself: serves on the sockets that it was given, and does what its agent says.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::super::error::Error;
use super::super::server::{self, Dns, Sockets};
use super::Names;
use super::protocol::Message;
use crate::process::{self, Link};
use crate::services::ServiceKey;

/// Serves cluster DNS until it is told to end (SIGTERM); the agent that started it is at the other end of the standard input.
///
/// # Errors
/// It was not started by an agent of its version, or cannot use what it was given.
pub fn serve(directory: &Path) -> Result<(), Error> {
    let started = process::start_up::<Names>(directory)?;
    process::give_up_rights();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let mut options = server::Options::new(started.setup.listen.clone(), started.setup.domain.clone());
        options.reverse_ranges.clone_from(&started.setup.reverse_ranges);
        options.resolv_conf.clone_from(&started.setup.resolv_conf);
        let own = started.held.iter().map(Sockets::try_clone).collect::<io::Result<Vec<_>>>();
        let dns = Arc::new(Dns::prepare(options, own.map_err(Error::Socket)?)?);
        process::attend(started, |link| tokio::spawn(follow(link, Arc::clone(&dns)))).await?;
        dns.drain().await;
        Ok(())
    })
}

/// Does what an agent says until it goes; what it said last stays.
async fn follow(mut link: Link<Names>, dns: Arc<server::Handle>) {
    let mut rest: Option<HashSet<ServiceKey>> = None;
    while let Some(message) = link.next().await {
        match message {
            Message::Set(key, service) => {
                if let Some(rest) = &mut rest {
                    rest.remove(&key);
                }
                dns.update(&key, Some(service));
            }
            Message::Remove(key) => dns.update(&key, None),
            Message::Begin => rest = Some(dns.keys().into_iter().collect()),
            Message::Commit => rest.take().into_iter().flatten().for_each(|key| dns.update(&key, None)),
            Message::Outside(outside) => {
                if let Err(error) = dns.set_outside(&outside) {
                    tracing::warn!(%error, "a stub domain cannot be used");
                }
            }
            Message::Sync(number) => {
                // Answered only where questions can be, too: both need the zone. The first one says that what is known when a
                // process starts has been told: from here on an answer is right.
                dns.touch();
                if let Err(error) = dns.begin() {
                    tracing::error!(%error, "cluster DNS cannot begin; its agent starts another process");
                    return;
                }
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
