//! A small netlink layer of our own: messages, sockets inside a namespace, rtnetlink, nftables and conntrack.

mod conntrack;
mod error;
mod message;
mod namespace;
mod nft_constants;
mod nft_device;
mod nft_expression;
mod nft_filter;
mod nft_message;
mod nft_query;
mod nft_types;
mod nft_watch;
mod route;
mod route_query;
mod socket;
mod system;
mod traffic;
mod tunnel;

pub use conntrack::{Conntrack, Flow, FlowFilter};
pub use error::{Error, Result};
pub use message::{Attributes, Batch, attributes};
pub use namespace::NetworkNamespace;
pub(crate) use namespace::swap_sysctl;
pub use nft_constants::{Family, Hook};
pub use nft_expression::{Expressions, Register, Verdict};
pub use nft_filter::{FieldType, FilterSet};
pub use nft_message::{ChainSpec, Element, NftBatch, SetFlags, SetSpec, TypedSetSpec};
pub use nft_query::{ChainInfo, Nft, RuleInfo, TableInfo};
pub use nft_types::{DataType, MapValue};
pub(crate) use nft_watch::{TableWatch, Watched};
pub(crate) use route::ROUTE_PROTOCOL;
pub use route::{LinkAddress, Neighbour, Route, RouteBatch, VethPair};
pub use route_query::{AddressInfo, LinkInfo, RouteInfo, Rtnetlink};
pub use socket::{Protocol, Socket};
pub use traffic::TokenBucket;
pub use tunnel::{Forwarding, VxlanInfo};
