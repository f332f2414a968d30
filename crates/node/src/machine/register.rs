//! The Node object: registered at the start, its status kept true, its labels followed; and the watch over pressures.

use super::announce::Announcer;
use super::conntrack::ConntrackWatch;
use super::eviction::Thresholds;
use super::extended::{is_offered, offered};
use super::facts::Facts;
use super::image_collector::{ImageHistory, ImageThresholds};
use super::reclaim::Eviction;
use crate::agent::{Change, PodRegistry, Resync, Shared, follow, target};
use crate::feed::{
    Beside, CLUSTER_DNS, ENCRYPTION, ENCRYPTION_FORM, ENCRYPTION_KEY, Encryption, Words, encryption_annotation,
};
use client::{PatchKind, Query};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How often pressures are looked at, and the status written where something changed.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How soon a node whose network is not ready looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// An unchanged status is written again after this, as upstream.
const WRITE_AT_LEAST_EVERY: Duration = Duration::from_secs(300);
/// A pressure is told for so long after it was seen last, as upstream.
const PRESSURE_HOLDS: Duration = Duration::from_secs(300);
/// How long pods of before may take to end until the node reports that it is ready all the same.
const SETTLE_MAX: Duration = Duration::from_secs(30);
const RIGHT_RETRY: Duration = Duration::from_millis(200);
/// How often the node contradicts what others say of it.
const RIGHT_EVERY: Duration = Duration::from_secs(2);
const IMAGES_IN_STATUS_MAX: usize = 50;
pub(super) const PRESSURES: [&str; 3] = ["MemoryPressure", "DiskPressure", "PIDPressure"];

/// How the machine presents itself.
#[derive(Clone, Debug, Default)]
pub struct MachineOptions {
    /// The node's name.
    pub name: String,
    /// The host name.
    pub hostname: String,
    /// More labels.
    pub labels: BTreeMap<String, String>,
    /// Addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Pods that it takes.
    pub pods_max: i64,
    /// The node's pod ranges.
    pub pod_ranges: Vec<String>,
    /// The port of the kubelet-compatible endpoints; 0 where there is none on the network.
    pub endpoint_port: u16,
    /// The version that is shown, such as `v1.37.0+klynge.0.1.0`.
    pub version: String,
    /// When the machine is short.
    pub thresholds: Thresholds,
    /// When images are removed.
    pub image_thresholds: ImageThresholds,
    /// Whether a Node object that somebody deletes is made again; else its deletion takes the machine out of the cluster.
    pub registers_again: bool,
    /// How what goes between nodes is encrypted; None where nothing is.
    pub encryption: Option<Encryption>,
    /// Whether the agent has heartbeats, so that a new server expects them.
    pub beats: bool,
    /// The subnets where it can announce addresses; empty where it announces none.
    pub subnets: Vec<String>,
    /// The processes beside the agent that are looked after.
    pub beside: Vec<Beside>,
}

/// The machine's presence in the cluster.
pub struct Machine {
    pub(super) options: MachineOptions,
    facts: Facts,
    pub(super) shared: Arc<Shared>,
    pub(super) registry: PodRegistry,
    /// Status and transition time by condition.
    conditions: BTreeMap<&'static str, (bool, Timestamp)>,
    /// When a pressure was seen last.
    pub(super) pressures: BTreeMap<&'static str, std::time::Instant>,
    pub(super) images: ImageHistory,
    /// When images were removed last, or the agent began.
    pub(super) collected: std::time::Instant,
    /// The kernel's table of connections.
    pub(super) conntrack: ConntrackWatch,
    /// The pod that is being evicted.
    pub(super) eviction: Option<Eviction>,
    resync: Resync,
    /// Revision of the last status that was written here, and when a foreign one was set right.
    written: u64,
    righted: Option<std::time::Instant>,
    /// What others advertise in the Node's capacity, as it goes into what the node offers.
    extended: BTreeMap<String, Option<String>>,
    /// Whether the start was told, and whether the node was cordoned when it was told last.
    started: bool,
    unschedulable: bool,
    /// Set when the Node object is gone for good.
    removed: watch::Sender<bool>,
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Machine {
    /// A machine with these facts.
    #[must_use]
    pub fn new(
        options: MachineOptions,
        facts: Facts,
        shared: Arc<Shared>,
        registry: PodRegistry,
        resync: Resync,
    ) -> Self {
        let (conditions, pressures) = (BTreeMap::new(), BTreeMap::new());
        let images = ImageHistory::default();
        // Not right after a start: what pods and people are about to use would look unused.
        let collected = std::time::Instant::now();
        let (removed, _) = watch::channel(false);
        let (written, righted) = (0, None);
        let (extended, started, unschedulable) = (BTreeMap::new(), false, false);
        Self {
            options,
            facts,
            shared,
            registry,
            conditions,
            pressures,
            images,
            collected,
            conntrack: ConntrackWatch::default(),
            eviction: None,
            resync,
            written,
            righted,
            extended,
            started,
            unschedulable,
            removed,
        }
    }

    /// True once the Node object was deleted and is not made again.
    #[must_use]
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.removed.subscribe()
    }

    fn announcer(&self) -> Announcer<'_> {
        Announcer { recorder: &self.shared.recorder, node: &self.options.name }
    }

    /// The agent begins: upstream's kubelet tells its pressures anew each time.
    fn announce_start(&mut self) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let announcer = self.announcer();
        announcer.starting();
        for kind in PRESSURES {
            announcer.condition(kind, self.has_pressure(kind));
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.options.labels.clone();
        for (key, value) in [
            ("kubernetes.io/hostname", self.options.hostname.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", architecture()),
        ] {
            labels.insert(key.into(), value.into());
        }
        labels
    }

    /// Registers the node, waiting for the API as long as it takes; the Node's uid.
    pub async fn register(&mut self) -> String {
        self.announce_start();
        let mut wait = Duration::from_millis(20);
        loop {
            match self.try_register().await {
                Ok(uid) => return uid,
                Err(error) => tracing::debug!(%error, "the node registers later"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(7));
        }
    }

    async fn try_register(&mut self) -> Result<String, object::Status> {
        let name = self.options.name.clone();
        let mut annotations = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
        if self.options.beats {
            annotations["klynge.io/heartbeat"] = json!("klynge-heartbeat/1");
        }
        if !self.options.subnets.is_empty() {
            annotations["klynge.io/subnets"] = json!(self.options.subnets.join(","));
        }
        self.extended.clear();
        let mut all = annotations.clone();
        if let Some(encryption) = self.options.encryption {
            all[ENCRYPTION_KEY] = json!(encryption_annotation(encryption.key));
            all[ENCRYPTION_FORM] = json!(encryption.form.name());
        }
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": self.labels(), "annotations": all},
            "spec": {"podCIDR": self.options.pod_ranges.first(), "podCIDRs": self.options.pod_ranges},
            "status": self.status().await
        });
        let created = self.shared.api.create::<Node>(target("", "nodes", "", "", ""), &object).await;
        let mut was_ready = false;
        let node = match created {
            Ok(node) => node,
            Err(status) if status.is_already_exists() => {
                let node: Node = self.shared.api.get(target("", "nodes", "", &name, "")).await?;
                // A key of before is taken back where nothing is encrypted any more.
                let encryption = self.options.encryption;
                annotations[ENCRYPTION_KEY] = json!(encryption.map(|own| encryption_annotation(own.key)));
                annotations[ENCRYPTION_FORM] = json!(encryption.map(|own| own.form.name()));
                if self.options.subnets.is_empty() {
                    // Of a former start: it goes.
                    annotations["klynge.io/subnets"] = Value::Null;
                }
                let patch = json!({"metadata": {"labels": self.labels(), "annotations": annotations}});
                self.shared.api.patch(target("", "nodes", "", &name, ""), PatchKind::Merge, patch).await?;
                self.keep_transitions(&node);
                self.extended = offered(&node);
                was_ready = says_ready(&node);
                if !was_ready {
                    self.settle().await;
                }
                node
            }
            Err(status) => return Err(status),
        };
        self.write_status().await?;
        let boot_id =
            node.status.as_ref().and_then(|status| status.node_info.as_ref()).map(|info| info.boot_id.as_str());
        if boot_id.is_some_and(|known| !known.is_empty() && known != self.facts.boot_id) {
            self.announcer().rebooted(&self.facts.boot_id);
        }
        if !was_ready {
            self.announcer().condition("Ready", true);
        }
        let labels = node.metadata.labels.unwrap_or_else(|| self.labels());
        *self.shared.labels.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(labels);
        Ok(node.metadata.uid.unwrap_or_default())
    }

    /// A condition that did not change keeps the time of its last change over a restart.
    fn keep_transitions(&mut self, node: &Node) {
        let old = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        for condition in old {
            let Some(time) = &condition.last_transition_time else { continue };
            let beside = [CLUSTER_DNS.condition, ENCRYPTION.condition];
            for kind in PRESSURES.into_iter().chain(beside).chain(["Ready"]) {
                if condition.type_ == kind && condition.status != "Unknown" {
                    self.conditions.insert(kind, (condition.status == "True", time.0));
                }
            }
        }
    }

    async fn write_status(&mut self) -> Result<(), object::Status> {
        let mut status = self.status().await;
        // Addresses merge by type, of which a node may have two of one: the list stands as a whole.
        if let Some(addresses) = status.get_mut("addresses").and_then(Value::as_array_mut) {
            addresses.push(json!({"$patch": "replace"}));
        }
        // What a former start said of a process that this one does not have goes.
        for words in [&CLUSTER_DNS, &ENCRYPTION] {
            if !self.options.beside.iter().any(|own| own.words.condition == words.condition)
                && self.conditions.remove(words.condition).is_some()
                && let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut)
            {
                conditions.push(json!({"type": words.condition, "$patch": "delete"}));
            }
        }
        let patch = json!({"status": status});
        let target = target("", "nodes", "", &self.options.name, "status");
        self.written = self.shared.api.patch(target, PatchKind::Strategic, patch).await?;
        Ok(())
    }

    /// After an absence: pods that were deleted meanwhile, or are gone, end before the node says that it is ready.
    async fn settle(&self) {
        let leaving = self.resync.list().await;
        let left = self.resync.until_gone(leaving, SETTLE_MAX).await;
        if left > 0 {
            tracing::warn!(pods = left, "the node says that it is ready while pods of before are still ending");
        }
    }

    /// Others took this node for lost: it says otherwise, once it has done what they decided. Not more often than it may be
    /// wrong itself.
    /// When to look again, where something is left to say.
    async fn set_right(&mut self, node: &Node) -> Option<Duration> {
        let revision = node.metadata.resource_version.as_ref().and_then(|text| text.parse::<u64>().ok());
        let is_old = revision.is_some_and(|revision| revision <= self.written);
        if is_old || says_ready(node) || self.is_unready() && says(node, "False") {
            return None;
        }
        let wait = self.righted.map(|at| RIGHT_EVERY.saturating_sub(at.elapsed())).filter(|wait| !wait.is_zero());
        if wait.is_some() {
            return wait;
        }
        tracing::info!("others took this node for lost; it lists its pods and reports again");
        self.settle().await;
        self.righted = Some(std::time::Instant::now());
        if let Err(error) = self.write_status().await {
            tracing::debug!(%error, "the node reports again later");
            self.righted = None;
            return Some(RIGHT_RETRY);
        }
        self.announcer().condition("Ready", true);
        None
    }

    /// Keeps the status true and looks after pressures until the process ends.
    pub async fn run(mut self) {
        let (sender, mut changes) = mpsc::channel(16);
        let query = Query { fields: format!("metadata.name={}", self.options.name), ..Query::default() };
        let client = Arc::clone(&self.shared.api.0);
        self.shared.tasks.spawn(follow::<Node>(client, target("", "nodes", "", "", ""), query, sender));
        let mut written = std::time::Instant::now();
        let mut known: Option<Arc<Node>> = None;
        let mut before = self.conditions.clone();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(change) = changes.recv() => {
                    let node = match change {
                        Change::All(all) => all.into_iter().next(),
                        Change::Put(node) => Some(node),
                        Change::Gone(_) => None,
                    };
                    if node.is_none() {
                        if !self.options.registers_again {
                            self.removed.send_replace(true);
                            return;
                        }
                        // Someone deleted the Node while it lives: it comes back.
                        self.register().await;
                    }
                    if let Some(node) = &node && let Some(wait) = self.set_right(node).await {
                        look.reset_after(wait);
                    }
                    if let Some(node) = &node {
                        self.take_changes(node).await;
                    }
                    known = node.clone();
                    if let Some(labels) = node.and_then(|node| node.metadata.labels.clone()) {
                        *self.shared.labels.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(labels);
                    }
                }
                _ = look.tick() => {
                    if let Some(node) = &known && let Some(wait) = self.set_right(node).await {
                        look.reset_after(wait);
                    }
                    self.look_after_pressures().await;
                    let untold = known.as_deref().is_some_and(|node| !is_offered(node));
                    let network = self.shared.network.readiness().await;
                    self.set("Ready", network.is_ok());
                    if network.is_err() {
                        look.reset_after(LOOK_AGAIN);
                    }
                    if untold || self.conditions != before || written.elapsed() >= WRITE_AT_LEAST_EVERY {
                        match self.write_status().await {
                            Ok(()) => {
                                written = std::time::Instant::now();
                                self.announce_changes(&before);
                                before = self.conditions.clone();
                            }
                            Err(error) => tracing::debug!(%error, "the node's status is written later"),
                        }
                    }
                }
            }
        }
    }

    /// What others changed on the Node that the agent answers to: cordons, and capacity that they advertise.
    async fn take_changes(&mut self, node: &Node) {
        let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        if std::mem::replace(&mut self.unschedulable, unschedulable) != unschedulable {
            self.announcer().schedulable(!unschedulable);
        }
        self.extended = offered(node);
        if !is_offered(node)
            && let Err(error) = self.write_status().await
        {
            tracing::debug!(%error, "what the node offers is written with the next look");
        }
    }

    fn announce_changes(&self, before: &BTreeMap<&'static str, (bool, Timestamp)>) {
        for (kind, (value, _)) in &self.conditions {
            if before.get(kind).map(|(value, _)| value) != Some(value) {
                self.announcer().condition(kind, *value);
            }
        }
    }

    pub(super) fn set(&mut self, kind: &'static str, value: bool) -> Timestamp {
        let now = Timestamp::now();
        let entry = self.conditions.entry(kind).or_insert((value, now));
        if entry.0 != value {
            *entry = (value, now);
        }
        entry.1
    }

    /// The processes beside the agent that fail, with why, and those that failed; nothing of one that never did: upstream's nodes have no
    /// such conditions.
    pub(super) fn beside_problems(&self) -> Vec<(&'static Words, Option<String>)> {
        let told = self.options.beside.iter().map(|beside| (beside.words, beside.failure()));
        told.filter(|(words, why)| why.is_some() || self.conditions.contains_key(words.condition)).collect()
    }

    /// Whether the node itself says that it is not ready.
    fn is_unready(&self) -> bool {
        self.conditions.get("Ready").is_some_and(|(ready, _)| !ready)
    }

    pub(super) fn has_pressure(&self, kind: &'static str) -> bool {
        self.pressures.get(kind).is_some_and(|seen| seen.elapsed() < PRESSURE_HOLDS)
    }

    async fn status(&mut self) -> Value {
        let now = Timestamp::now();
        let kinds: [(&'static str, &str, &str, &str, &str); 3] = [
            (
                "MemoryPressure",
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            ),
            (
                "DiskPressure",
                "KubeletHasDiskPressure",
                "kubelet has disk pressure",
                "KubeletHasNoDiskPressure",
                "kubelet has no disk pressure",
            ),
            (
                "PIDPressure",
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available",
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available",
            ),
        ];
        let mut conditions = Vec::new();
        for (kind, bad, bad_text, good, good_text) in kinds {
            let pressed = self.has_pressure(kind);
            let since = self.set(kind, pressed);
            let (status, reason, message) = if pressed { ("True", bad, bad_text) } else { ("False", good, good_text) };
            conditions.push(json!({"type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": now_text(now), "lastTransitionTime": now_text(since)}));
        }
        for (words, why) in self.beside_problems() {
            let since = self.set(words.condition, why.is_some());
            let (status, reason) = if why.is_some() { ("True", words.failing) } else { ("False", words.serving) };
            conditions.push(json!({"type": words.condition, "status": status, "reason": reason,
                "message": why.unwrap_or_else(|| words.found.to_owned()),
                "lastHeartbeatTime": now_text(now), "lastTransitionTime": now_text(since)}));
        }
        let (ready, reason, message) = match self.shared.network.readiness().await {
            Ok(()) => (true, "KubeletReady", "kubelet is posting ready status".to_owned()),
            Err(why) => (false, "KubeletNotReady", not_ready(&why)),
        };
        let since = self.set("Ready", ready);
        conditions.push(json!({"type": "Ready", "status": if ready { "True" } else { "False" }, "reason": reason,
            "message": message, "lastHeartbeatTime": now_text(now), "lastTransitionTime": now_text(since)}));
        let mut addresses: Vec<Value> =
            self.options.addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
        addresses.push(json!({"type": "Hostname", "address": self.options.hostname}));
        let facts = &self.facts;
        let capacity = json!({"cpu": facts.cpus.to_string(), "memory": format!("{}Ki", facts.memory_bytes >> 10),
            "ephemeral-storage": format!("{}Ki", facts.ephemeral_bytes >> 10), "pods": self.options.pods_max.to_string(),
            "hugepages-2Mi": "0", "hugepages-1Gi": "0"});
        let mut allocatable = capacity.clone();
        if let Some(allocatable) = allocatable.as_object_mut() {
            allocatable.extend(self.extended.iter().map(|(name, quantity)| (name.clone(), json!(quantity))));
        }
        let mut images = self.shared.containers.images().await;
        images.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
        let images: Vec<Value> = images
            .into_iter()
            .take(IMAGES_IN_STATUS_MAX)
            .map(|image| json!({"names": image.names, "sizeBytes": image.size_bytes}))
            .collect();
        json!({
            "capacity": capacity, "allocatable": allocatable, "conditions": conditions, "addresses": addresses,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.options.endpoint_port}},
            "nodeInfo": {"machineID": facts.machine_id, "systemUUID": facts.system_uuid, "bootID": facts.boot_id,
                "kernelVersion": facts.kernel, "osImage": facts.os_image, "containerRuntimeVersion": format!("klynge://{}", env!("CARGO_PKG_VERSION")),
                "kubeletVersion": self.options.version, "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": architecture()},
            "images": images
        })
    }
}

/// Whether the API has the node as ready.
fn says_ready(node: &Node) -> bool {
    says(node, "True")
}

/// Whether the API has this status of the node's condition Ready.
fn says(node: &Node, status: &str) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == status)
}

/// Why a node whose network is not ready is not, as upstream's kubelet says it.
fn not_ready(why: &str) -> String {
    format!(
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: {why}"
    )
}

/// Whole seconds, as the API writes times.
fn now_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
