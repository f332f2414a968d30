//! Volumes and the files that every container gets: what they hold (pure) and how they come on the disk.

mod atomic_writer;
mod directories;
mod files;
mod payload;
mod sub_path;

pub use atomic_writer::{Ownership, write_atomically};
pub use directories::{
    GroupRights, Prepared, clean_up, clean_up_all, files_directory, host_path, memory_or_disk, own_by_group,
};
pub use files::{HostDns, hostnames, hosts_file, resolv_conf};
pub use payload::{Entry, Inputs, Payload, TokenWish, downward, from_config_map, from_secret, projected, token_wishes};
pub use sub_path::make_sub_path;
