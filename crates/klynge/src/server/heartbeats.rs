//! What the API sees of nodes, in the controllers' words: neither room knows the other.

use std::sync::Arc;
use tokio::sync::watch;

fn seen(seen: &api::Seen) -> controllers::Seen {
    let presence = match seen.presence {
        api::Presence::Healthy => controllers::Presence::Healthy,
        api::Presence::AgentHung => controllers::Presence::AgentHung,
        api::Presence::AgentAway { by_lease } => controllers::Presence::AgentAway { by_lease },
        api::Presence::Silent(silence) => controllers::Presence::Silent(match silence {
            api::Silence::Fresh => controllers::Silence::Fresh,
            api::Silence::Replace => controllers::Silence::Replace,
            api::Silence::Evict => controllers::Silence::Evict,
        }),
    };
    controllers::Seen { presence, flapping: seen.flapping, held: seen.held }
}

fn translated(picture: &api::Picture) -> Arc<controllers::Picture> {
    Arc::new(picture.iter().map(|(name, known)| (name.clone(), seen(known))).collect())
}

/// Passes each picture on, the newest only, until either side ends.
pub(super) fn for_controllers(
    mut from: watch::Receiver<Arc<api::Picture>>,
) -> watch::Receiver<Arc<controllers::Picture>> {
    let first = translated(&from.borrow_and_update());
    let (to, told) = watch::channel(first);
    tokio::spawn(async move {
        while from.changed().await.is_ok() {
            let picture = translated(&from.borrow_and_update());
            if to.send(picture).is_err() {
                return;
            }
        }
    });
    told
}
