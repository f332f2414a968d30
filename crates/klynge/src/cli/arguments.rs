//! What can be typed: commands, options, their help.

use super::Format;
use crate::dev::DevCommand;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use std::net::IpAddr;
use std::path::PathBuf;

/// Where the cluster of a machine keeps its state unless told otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/klynge";

const EXAMPLES: &str = "\
Examples:
  sudo klynge up                         start a cluster on this machine
  klynge run web nginx --publish 80      run an application and publish its port
  kubectl get pods                       kubectl works as with any cluster
  klynge explain pod web-5d9c7           why is it not as wanted, and what to do
  sudo klynge down --purge               remove the cluster and everything it made

Exit codes: 0 done; 1 failed; 2 wrong command line; 3 cluster not reachable; 4 not found; 5 needs root; 6 timed out.";

#[derive(Debug, Parser)]
#[command(
    name = "klynge",
    version,
    about = "Many machines feel like one: a Kubernetes-compatible container platform in one binary"
)]
#[command(after_help = EXAMPLES, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Where the cluster keeps its state on this machine
    #[arg(long, global = true, value_name = "DIR", default_value = DEFAULT_DATA_DIR, env = "KLYNGE_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    /// The kubeconfig file: written by server and up, read by the other commands
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Print objects in this form
    #[arg(short, long, global = true, value_enum, value_name = "FORM")]
    pub(crate) output: Option<Format>,
    /// No progress on stderr
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run control plane and node agent in the foreground
    Server(ServerArguments),
    /// Run this machine as a node of a cluster elsewhere
    Agent(AgentArguments),
    /// Look after the cluster's nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// Make, list and delete the tokens that let machines join
    #[command(subcommand)]
    Token(TokenCommand),
    /// Clusters of several nodes on this machine, each node in namespaces of its own
    #[command(subcommand)]
    Dev(DevCommand),
    /// Start a cluster on this machine in the background
    Up(UpArguments),
    /// Stop the cluster on this machine; containers go on running unless --purge is given
    Down(DownArguments),
    /// Run an image as a Deployment, optionally published on a port
    Run(RunArguments),
    /// Look after this node's images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Say how the cluster is
    Status(StatusArguments),
    /// Say in a sentence why a thing is not as wanted, and what to do
    Explain(ExplainArguments),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completions(CompletionsArguments),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArguments {
    /// Address to listen on; 0.0.0.0 and :: mean all addresses of both families
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0")]
    pub(crate) bind: IpAddr,
    /// Port of the API
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub(crate) port: u16,
    /// Address that others reach this server at, and one of the other family after a comma; found from the default route when
    /// not given
    #[arg(long, value_name = "ADDR[,ADDR]", value_delimiter = ',', num_args = 1)]
    pub(crate) advertise: Vec<IpAddr>,
    /// Another name or address that the serving certificate is good for (may be repeated)
    #[arg(long, value_name = "NAME")]
    pub(crate) tls_san: Vec<String>,
    /// Name of this node; the host's name when not given
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Control plane only: run no node agent here
    #[arg(long)]
    pub(crate) no_agent: bool,
    /// Port of the node's kubelet endpoints, for metrics collectors and the like; 0 for none
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub(crate) kubelet_port: u16,
    /// Addresses for pods: a range, or one of each family with a comma between [default: the cluster's, at first 10.42.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub(crate) pod_cidr: Option<String>,
    /// Addresses for Services: a range, or one of each family with a comma between [default: the cluster's, at first 10.43.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub(crate) service_cidr: Option<String>,
    /// Start replacements a second after a node falls silent, without waiting for tolerationSeconds, for all pods that may
    /// have copies; a frozen node then costs a restart of its pods
    #[arg(long)]
    pub(crate) fast_failover: bool,
    #[command(flatten)]
    pub(crate) pod_network: NetworkArguments,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AgentArguments {
    /// Where the cluster's API is; needed the first time
    #[arg(long, value_name = "https://HOST:PORT")]
    pub(crate) server: Option<String>,
    /// What `klynge token create` printed; needed the first time
    #[arg(long, value_name = "TOKEN", env = "KLYNGE_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Name of this node; the host's name when not given
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Address that the other nodes reach this machine at, and one of the other family after a comma; the one that leads to the
    /// server when not given
    #[arg(long, value_name = "ADDR[,ADDR]", value_delimiter = ',', num_args = 1)]
    pub(crate) advertise: Vec<IpAddr>,
    /// Port of the node's kubelet endpoints, for metrics collectors and the like; 0 for none
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub(crate) kubelet_port: u16,
    #[command(flatten)]
    pub(crate) pod_network: NetworkArguments,
    /// Join, then run in the background (a systemd unit where systemd runs); `klynge down` stops it
    #[arg(long)]
    pub(crate) background: bool,
}

/// Who attaches pods to the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum NetworkKind {
    /// Klynge itself: addresses, routes between nodes, network policies
    #[default]
    Builtin,
    /// CNI plug-ins that are installed on this machine
    Cni,
}

/// How packets between nodes are protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EncryptionKind {
    /// Not at all
    #[default]
    None,
    /// By WireGuard: the kernel's, else one in user space
    Wireguard,
}

/// The pod network of this node.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct NetworkArguments {
    /// Who attaches this node's pods to the network; to change it, move the node's pods elsewhere first
    #[arg(long, value_enum, value_name = "WHO", default_value_t)]
    pub(crate) network: NetworkKind,
    /// With --network cni: the directory of network configurations, of which the first by name counts; /etc/cni/net.d when not
    /// given
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// With --network cni: a directory of plug-ins (may be repeated); /opt/cni/bin and /usr/lib/cni when not given
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_bin_dir: Vec<PathBuf>,
    /// Encrypt what goes between pods of different nodes; all nodes must do alike: pods of one that does not are not reached from
    /// one that does
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub(crate) encryption: EncryptionKind,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Move a node's pods elsewhere and take the node out of the cluster
    Remove {
        /// Its name
        name: String,
        /// How long its pods may take to leave, in seconds
        #[arg(long, default_value_t = 300, value_name = "SECONDS")]
        timeout: u64,
        /// Do not move its pods first: for a machine that is gone for good
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print the command for the other machine
    Create {
        /// How long it holds: 30m, 24h, 7d; 0 for ever
        #[arg(long, default_value = "24h", value_name = "TIME")]
        ttl: String,
        /// How many machines it admits, or unlimited
        #[arg(long, default_value = "1", value_name = "N")]
        uses: String,
        /// The address to print, where machines reach the server at another than its own
        #[arg(long, value_name = "https://HOST:PORT")]
        server: Option<String>,
    },
    /// List the tokens, without their secrets
    List,
    /// Delete a token; machines that joined with it stay
    Delete {
        /// Its id, the part before the first point
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

#[derive(Debug, Args)]
pub(crate) struct DownArguments {
    /// Remove containers, network, images and all state as well
    #[arg(long)]
    pub(crate) purge: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Name of the Deployment
    pub(crate) name: String,
    /// Image, such as nginx or registry.example.org/team/app:1.2
    pub(crate) image: String,
    /// How many copies
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(i32::MAX)))]
    pub(crate) replicas: u32,
    /// Publish this port of the containers behind one address
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) publish: Option<u16>,
    /// Namespace
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// Variable for the containers (may be repeated)
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Seconds to wait until it runs; 0 not to wait
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub(crate) timeout: u64,
    /// Command and arguments instead of the image's own
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Take an image from a file (`docker save` archive or OCI layout; `-` for stdin)
    Import {
        /// The archive
        file: PathBuf,
        /// The name to give to an archive that carries none
        #[arg(long, value_name = "REFERENCE")]
        name: Option<String>,
    },
    /// Fetch an image from its registry
    Pull {
        /// Such as nginx or registry.example.org/team/app:1.2
        reference: String,
    },
    /// List this node's images
    Ls,
    /// Remove an image
    Rm {
        /// Its reference
        reference: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {}

#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    /// Kind or resource, such as pod, deploy, svc, node; or both words in one, such as pod/web
    #[arg(value_name = "KIND[/NAME]")]
    pub(crate) kind: String,
    /// Name of the object
    pub(crate) name: Option<String>,
    /// Namespace
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// Which shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}
