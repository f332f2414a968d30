//! What can be typed after `klynge dev`.

use super::slow;
use crate::cli::EncryptionKind;
use clap::{Args, Subcommand};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  sudo klynge dev up --nodes 3 --image app.tar     three nodes, with an image on each
  kubectl --context klynge-dev get nodes -o wide
  sudo klynge dev node kill-agent dev-2            its pods go on
  sudo klynge dev node kill dev-3                  as if its power was cut
  sudo klynge dev node partition dev-2 --direction from
  sudo klynge dev node slow dev-2 --delay 50 --jitter 10 --loss 1
  sudo klynge dev up --name secret --encryption wireguard
  sudo klynge dev exec dev-2 -- ip route
  sudo klynge dev down

Clusters live below /var/lib/klynge-dev (--data-dir chooses another directory). A node is named CLUSTER-NUMBER.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum DevCommand {
    /// Start a cluster of several nodes on this machine
    Up(DevUpArguments),
    /// List the clusters
    Ls,
    /// Say how the nodes of a cluster are
    Status(DevName),
    /// Give images to all nodes
    #[command(subcommand)]
    Image(DevImageCommand),
    /// Stop, kill, pause, cut off, slow and restart nodes
    #[command(subcommand)]
    Node(DevNodeCommand),
    /// Run a command inside a node
    Exec(DevExecArguments),
    /// Remove a cluster and everything it made
    Down(DevDownArguments),
}

#[derive(Debug, Args)]
pub(crate) struct DevName {
    /// The cluster
    #[arg(long, value_name = "CLUSTER", default_value = "dev")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct DevUpArguments {
    #[command(flatten)]
    pub(crate) name: DevName,
    /// How many nodes; the first also runs the control plane
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) nodes: u16,
    /// An archive of images for every node (may be repeated)
    #[arg(long, value_name = "ARCHIVE")]
    pub(crate) image: Vec<PathBuf>,
    /// Addresses of the nodes; a free /24 of 10.84.0.0/16 when not given
    #[arg(long, value_name = "CIDR")]
    pub(crate) subnet: Option<String>,
    /// IPv6 addresses as well, for nodes, pods and Services
    #[arg(long)]
    pub(crate) ipv6: bool,
    /// Replace pods of a node that fell silent after a second, in every namespace
    #[arg(long)]
    pub(crate) fast_failover: bool,
    /// CPUs that each node may use, such as 2 or 0.5
    #[arg(long, value_name = "CPUS")]
    pub(crate) cpus: Option<String>,
    /// Memory that each node may use, such as 2Gi
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Encrypt what goes between pods of different nodes
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub(crate) encryption: EncryptionKind,
    /// Seconds to wait until all nodes are Ready
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct DevDownArguments {
    #[command(flatten)]
    pub(crate) name: DevName,
    /// Every cluster
    #[arg(long, conflicts_with = "name")]
    pub(crate) all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevImageCommand {
    /// Give the images of an archive to every node that runs
    Import {
        /// `docker save` archive or OCI layout
        file: PathBuf,
        #[command(flatten)]
        name: DevName,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DevNodes {
    /// Nodes, such as dev-2
    #[arg(required = true, value_name = "NODE")]
    pub(crate) nodes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    /// Neither what the node sends nor what is sent to it arrives
    Both,
    /// What the node sends is lost
    From,
    /// What is sent to the node is lost
    To,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevNodeCommand {
    /// Stop the agent (SIGTERM); pods go on
    StopAgent(DevNodes),
    /// Kill the agent (SIGKILL); pods go on
    KillAgent(DevNodes),
    /// Start the agent where it does not run
    StartAgent(DevNodes),
    /// Stop the agent and start it again; pods go on
    RestartAgent(DevNodes),
    /// Kill all of a node at once, as if its power was cut; its link goes first
    Kill(DevNodes),
    /// Start a node that was killed; its disk is as it was
    Start(DevNodes),
    /// Freeze all processes of a node; its kernel still answers, so add partition for a machine that stands still
    Pause(DevNodes),
    /// Let a frozen node go on
    Resume(DevNodes),
    /// Lose a node's packets, silently
    Partition {
        #[command(flatten)]
        nodes: DevNodes,
        /// Which packets
        #[arg(long, value_enum, default_value_t = Direction::Both)]
        direction: Direction,
    },
    /// Make the link of nodes slow or lossy, each packet in each direction; replaces what was so before
    Slow(DevSlowArguments),
    /// Undo partition and slow
    Heal(DevNodes),
}

#[derive(Debug, Args)]
pub(crate) struct DevSlowArguments {
    #[command(flatten)]
    pub(crate) nodes: DevNodes,
    /// Packets arrive later by so many milliseconds
    #[arg(long, value_name = "MS", default_value = "0", value_parser = slow::parse_delay)]
    pub(crate) delay: u32,
    /// The delay varies by up to so many milliseconds either way
    #[arg(long, value_name = "MS", default_value = "0", value_parser = slow::parse_delay)]
    pub(crate) jitter: u32,
    /// So many packets are lost at random
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = slow::parse_loss)]
    pub(crate) loss: u32,
    /// No more than so many bits per second, such as 500kbit or 10mbit
    #[arg(long, value_name = "RATE", value_parser = slow::parse_rate)]
    pub(crate) rate: Option<u64>,
    /// As fast as ever again
    #[arg(long, conflicts_with_all = ["delay", "jitter", "loss", "rate"])]
    pub(crate) off: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DevExecArguments {
    /// The node, such as dev-2
    pub(crate) node: String,
    /// Command and arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}
