//! Attaches pods through a chain of plug-ins and detaches them, with a record of each attachment.

use super::config::{self, NetworkList, Plugin};
use super::error::Error;
use super::invoke;
use super::outcome::{Addresses, PluginError, shortened};
use super::record::{Record, Records, namespace_number, namespace_path};
use crate::netlink::{self, NetworkNamespace, RouteBatch, Rtnetlink};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The interface inside a pod.
const POD_INTERFACE: &str = "eth0";
/// How long one plug-in may take.
const PLUGIN_WITHIN: Duration = Duration::from_secs(120);
/// The burst that runtimes give to the bandwidth plug-in: as good as none.
const BURST_BITS: u32 = u32::MAX;

/// What to do about an attachment that cannot be taken back.
pub const PURGE_HINT: &str = "the plug-ins and their directory must still be there when pods are removed";

/// Where plug-ins and their configuration are.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of network configurations.
    pub configuration: PathBuf,
    /// The directories of programs, searched in order.
    pub programs: Vec<PathBuf>,
    /// Where records are kept.
    pub records: PathBuf,
}

/// A port of the host that leads to the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// tcp, udp or sctp.
    pub protocol: &'static str,
    /// The host's address; none for all.
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
}

/// A pod to attach.
#[derive(Clone, Debug, Default)]
pub struct Attachment {
    /// Its uid, the CNI container id.
    pub uid: String,
    /// Its namespace and name, for plug-ins that ask the cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// A process in its network namespace.
    pub process: u32,
    /// For plug-ins with the capability portMappings.
    pub port_mappings: Vec<PortMapping>,
    /// Bits per second that the pod receives, for plug-ins with the capability bandwidth.
    pub ingress_bits_per_second: Option<u64>,
    /// Bits per second that it sends.
    pub egress_bits_per_second: Option<u64>,
}

/// The plug-ins of a node. Calls block while programs run: use it from a blocking thread, for one pod at a time.
#[derive(Debug)]
pub struct Plugins {
    options: Options,
    records: Records,
}

fn capabilities(attachment: &Attachment) -> BTreeMap<String, Value> {
    let mut given = BTreeMap::new();
    if !attachment.port_mappings.is_empty() {
        let mapping = |port: &PortMapping| {
            json!({"hostPort": port.host_port, "containerPort": port.container_port, "protocol": port.protocol,
                "hostIP": port.host_ip.map(|ip| ip.to_string()).unwrap_or_default()})
        };
        given.insert("portMappings".to_owned(), attachment.port_mappings.iter().map(mapping).collect());
    }
    let mut bandwidth = serde_json::Map::new();
    for (direction, rate) in
        [("ingress", attachment.ingress_bits_per_second), ("egress", attachment.egress_bits_per_second)]
    {
        if let Some(rate) = rate {
            bandwidth.insert(format!("{direction}Rate"), Value::from(rate));
            bandwidth.insert(format!("{direction}Burst"), Value::from(BURST_BITS));
        }
    }
    if !bandwidth.is_empty() {
        given.insert("bandwidth".to_owned(), Value::Object(bandwidth));
    }
    given
}

impl Plugins {
    /// Opens the records. Nothing needs to be configured yet.
    ///
    /// # Errors
    /// A directory that cannot be made.
    pub fn open(options: Options) -> Result<Self, Error> {
        let records = Records::open(options.records.clone())?;
        Ok(Self { options, records })
    }

    /// Whether pods can be attached: there is a configuration, and the programs that it names.
    ///
    /// # Errors
    /// What is missing.
    pub fn readiness(&self) -> Result<(), Error> {
        let network = self.network()?;
        for plugin in &network.plugins {
            program(&self.options.programs, &plugin.kind).map_err(Error::Uninitialized)?;
        }
        Ok(())
    }

    fn network(&self) -> Result<NetworkList, Error> {
        config::load(&self.options.configuration).map_err(Error::Uninitialized)
    }

    /// The addresses of an attached pod.
    #[must_use]
    pub fn addresses_of(&self, uid: &str) -> Option<Vec<IpAddr>> {
        let record = self.records.read(uid).ok()??;
        Addresses::parse(record.result.as_ref()?, POD_INTERFACE).ok().map(|addresses| addresses.0)
    }

    /// Attaches a pod. What an earlier attempt left is taken back first: a pod is never added twice.
    ///
    /// # Errors
    /// What a plug-in said. Then nothing is attached, as far as the plug-ins took it back.
    pub fn attach(&self, attachment: &Attachment) -> Result<Vec<IpAddr>, Error> {
        if let Err(error) = self.detach(&attachment.uid) {
            if self.addresses_of(&attachment.uid).is_some() {
                return Err(error);
            }
            // It never was attached as a whole, perhaps because of what also keeps it from being taken back: a configuration that
            // is mended by now must not wait for that.
            tracing::warn!(uid = attachment.uid, %error, "what plug-ins attached in part may stay");
        }
        let network = self.network()?;
        let namespace = namespace_number(attachment.process)
            .ok_or_else(|| Error::Namespace(format!("process {} has ended", attachment.process)))?;
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            attachment.namespace, attachment.name, attachment.uid, attachment.uid
        );
        let mut record = Record::begun(&attachment.uid, network.to_value(), arguments, attachment.process, namespace);
        record.capabilities = capabilities(attachment);
        record.programs.clone_from(&self.options.programs);
        // Before the first plug-in runs: an agent that ends meanwhile finds what to take back.
        self.records.write(&record)?;
        let attached = self.add(&network, &mut record);
        if attached.is_err()
            && let Err(error) = self.detach(&attachment.uid)
        {
            tracing::warn!(uid = attachment.uid, %error, "what plug-ins attached in part is taken back later");
        }
        attached
    }

    fn add(&self, network: &NetworkList, record: &mut Record) -> Result<Vec<IpAddr>, Error> {
        let path = namespace_path(record.process).display().to_string();
        bring_loopback_up(record.process)?;
        let mut result = None;
        for plugin in &network.plugins {
            let input = network.input(plugin, &record.capabilities, result.as_ref());
            let answer = Self::run(network, plugin, "ADD", record, &path, input)?;
            let value = serde_json::from_slice::<Value>(&answer)
                .map_err(|error| failed(network, plugin, "add", format!("its answer is no JSON: {error}")))?;
            result = Some(value);
        }
        let result = result.unwrap_or_default();
        let addresses = Addresses::parse(&result, POD_INTERFACE).map_err(Error::NoAddress)?.0;
        if addresses.is_empty() {
            return Err(Error::NoAddress(format!("network {:?} gave no address", network.name)));
        }
        record.result = Some(result);
        self.records.write(record)?;
        Ok(addresses)
    }

    /// Detaches a pod; one that is not attached is no error. To be called before its namespace ends, where that is possible.
    ///
    /// # Errors
    /// What a plug-in said; it may be called again.
    pub fn detach(&self, uid: &str) -> Result<(), Error> {
        let Some(record) = self.records.read(uid)? else { return Ok(()) };
        let network =
            NetworkList::from_value(&record.network).map_err(|why| Error::Record { path: PathBuf::from(uid), why })?;
        let path = record.living_namespace();
        let previous = record.result.as_ref().filter(|_| network.tells_result_on_delete());
        for plugin in network.plugins.iter().rev() {
            let input = network.input(plugin, &record.capabilities, previous);
            Self::run(&network, plugin, "DEL", &record, &path, input)?;
        }
        self.records.remove(uid)
    }

    /// After a restart: takes back what belongs to none of these pods. Failures are told and tried again at the next start.
    ///
    /// # Errors
    /// Records that cannot be read.
    pub fn recover(&self, is_live: impl Fn(&str) -> bool) -> Result<(), Error> {
        for uid in self.records.all()? {
            if !is_live(&uid)
                && let Err(error) = self.detach(&uid)
            {
                tracing::warn!(uid, %error, "what plug-ins attached for a pod that is gone stays; {PURGE_HINT}");
            }
        }
        Ok(())
    }

    /// How many pods are attached, or may be.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn count(&self) -> Result<usize, Error> {
        Ok(self.records.all()?.len())
    }

    /// Takes back all that is attached. What never was attached as a whole is tried once, and forgotten.
    ///
    /// # Errors
    /// The first failure; the others are tried as well.
    pub fn purge(&self) -> Result<(), Error> {
        let take_back = |uid: &String| match self.detach(uid) {
            Err(error) if self.addresses_of(uid).is_none() => {
                tracing::warn!(uid, %error, "what plug-ins attached in part may stay");
                self.records.remove(uid)
            }
            outcome => outcome,
        };
        let outcomes: Vec<Result<(), Error>> = self.records.all()?.iter().map(take_back).collect();
        outcomes.into_iter().collect()
    }

    fn run(
        network: &NetworkList,
        plugin: &Plugin,
        command: &str,
        record: &Record,
        namespace: &str,
        input: Vec<u8>,
    ) -> Result<Vec<u8>, Error> {
        let verb = if command == "ADD" { "add" } else { "delete" };
        let directories = record.programs.iter().map(|path| path.display().to_string());
        let environment = [
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", record.uid.clone()),
            ("CNI_NETNS", namespace.to_owned()),
            ("CNI_IFNAME", POD_INTERFACE.to_owned()),
            ("CNI_ARGS", record.arguments.clone()),
            ("CNI_PATH", directories.collect::<Vec<_>>().join(":")),
        ];
        let program = program(&record.programs, &plugin.kind).map_err(|why| failed(network, plugin, verb, why))?;
        let ended = invoke::run(&program, &environment, input, PLUGIN_WITHIN)
            .map_err(|why| failed(network, plugin, verb, why))?;
        if ended.succeeded {
            return Ok(ended.answer);
        }
        let words = shortened(&String::from_utf8_lossy(&ended.words));
        let why = match PluginError::parse(&ended.answer) {
            Some(error) => error.message,
            None if words.is_empty() => format!("netplugin failed with no error message: {}", ended.how),
            None => format!("netplugin failed: {words:?}"),
        };
        Err(failed(network, plugin, verb, why))
    }
}

/// What other runtimes have a plug-in for.
fn bring_loopback_up(process: u32) -> Result<(), Error> {
    let up = || -> netlink::Result<()> {
        NetworkNamespace::of_process(process)?.run(|| {
            let mut rtnetlink = Rtnetlink::open()?;
            let mut batch = RouteBatch::new();
            batch.set_up(rtnetlink.index_of("lo")?);
            batch.send(rtnetlink.socket())
        })?
    };
    up().map_err(|error| Error::Namespace(error.to_string()))
}

fn program(directories: &[PathBuf], kind: &str) -> Result<PathBuf, String> {
    let found = directories.iter().map(|directory| directory.join(kind)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let searched: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
        format!("failed to find plugin {kind:?} in path [{}]", searched.join(" "))
    })
}

fn failed(network: &NetworkList, plugin: &Plugin, command: &'static str, why: String) -> Error {
    Error::Plugin { kind: plugin.kind.clone(), network: network.name.clone(), command, why }
}
