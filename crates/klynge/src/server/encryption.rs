//! Encryption between nodes as the agent begins it: by the kernel where it can, else by a process in user space.

use super::agent::{beside_directory, failed};
use crate::cli::{Failure, Global};
use network::netlink::NetworkNamespace;
use network::pod_net::{self, ENCRYPTION_INTERFACE, ENCRYPTION_PORT, EncryptionForm, PodNetwork, PrivateKey};
use network::process::Health;
use network::wireguard::{self, Process, Setup};
use node::feed::Encryption;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

const WHAT: &str = "set up the encryption between nodes";

/// The pod network afterwards.
pub(super) struct Begun {
    pub(super) pod_network: PodNetwork,
    /// How it encrypts; None where it does not.
    pub(super) encryption: Option<Encryption>,
    /// How the process in user space is; None where there is none.
    pub(super) health: Option<watch::Receiver<Health>>,
}

/// Begins to encrypt, or makes sure that nothing of a former start does. `groups` are what the process leaves the agent's control
/// groups for.
pub(super) async fn begin(
    global: &Global,
    mut pod_network: PodNetwork,
    is_encrypted: bool,
    groups: Vec<PathBuf>,
) -> Result<Begun, Failure> {
    let directory = beside_directory(global);
    let key_file = global.data_dir.join("network").join("wireguard.key");
    let path = key_file.clone();
    let look = spawn_blocking(move || {
        let chosen = match is_encrypted {
            true => Some((pod_network.encryption_form()?, PrivateKey::load_or_make(&path)?)),
            false => None,
        };
        Ok::<_, pod_net::Error>((pod_network, chosen))
    });
    let (mut pod_network, chosen) = look.await.map_err(failed(WHAT))?.map_err(failed(WHAT))?;
    let private_key = match chosen {
        Some((EncryptionForm::UserSpace, private_key)) => private_key,
        other => {
            // Of a start with the switch, or when the kernel was another.
            let ended = spawn_blocking(move || wireguard::end(&directory));
            ended.await.map_err(failed(WHAT))?.map_err(failed("end the encryption in user space"))?;
            let Some((form, private_key)) = other else {
                return Ok(Begun { pod_network, encryption: None, health: None });
            };
            tracing::info!("what goes between nodes is encrypted by the kernel's WireGuard");
            let encrypted = spawn_blocking(move || pod_network.encrypt(private_key).map(|key| (pod_network, key)));
            let (pod_network, key) = encrypted.await.map_err(failed(WHAT))?.map_err(failed(WHAT))?;
            return Ok(Begun { pod_network, encryption: Some(Encryption { key, form }), health: None });
        }
    };
    tracing::info!("what goes between nodes is encrypted by WireGuard in user space: the kernel has none");
    let options = wireguard::Options {
        directory,
        program: "/proc/self/exe".into(),
        setup: Setup {
            interface: ENCRYPTION_INTERFACE.to_owned(),
            port: ENCRYPTION_PORT,
            key_file,
            public_key: private_key.public_key(),
            groups,
        },
    };
    let namespace = NetworkNamespace::current().map_err(failed("open the network namespace"))?;
    let tunnel = Arc::new(Process::run(options, namespace).await.map_err(failed(WHAT))?);
    let health = tunnel.health();
    let encrypted = spawn_blocking(move || pod_network.encrypt_in_user_space(tunnel).map(|key| (pod_network, key)));
    let (pod_network, key) = encrypted.await.map_err(failed(WHAT))?.map_err(failed(WHAT))?;
    let encryption = Encryption { key, form: EncryptionForm::UserSpace };
    Ok(Begun { pod_network, encryption: Some(encryption), health: Some(health) })
}
