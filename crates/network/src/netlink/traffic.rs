//! Queues that limit what an interface sends (token buckets) or delay it (netem), and the redirection of what arrives at it: requests.

use super::message::Batch;
use super::route::{
    FLAG_CREATE, FLAG_EXCLUSIVE, FLAG_REPLACE, FLAG_REQUEST, INFO_KIND, INTERFACE_UP, LINK_INFO, LINK_MTU, LINK_NAME,
    NEW_LINK, RouteBatch,
};
use super::socket::FLAG_ACK;
use std::time::Duration;

const NEW_QUEUE: u16 = 36;
const DELETE_QUEUE: u16 = 37;
const NEW_FILTER: u16 = 44;

const KIND: u16 = 1;
const OPTIONS: u16 = 2;

const PARENT_ROOT: u32 = 0xffff_ffff;
const PARENT_INGRESS: u32 = 0xffff_fff1;
const HANDLE_ROOT: u32 = 0x0001_0000;
const HANDLE_INGRESS: u32 = 0xffff_0000;
/// ETH_P_ALL.
const ALL_PROTOCOLS: u16 = 3;
const FILTER_PRIORITY: u32 = 1;

const BUCKET_PARAMETERS: u16 = 1;
const BUCKET_RATE: u16 = 4;
const BUCKET_BURST: u16 = 6;
const NETEM_RATE: u16 = 6;
const NETEM_RATE_LONG: u16 = 8;
const NETEM_DELAY: u16 = 10;
const NETEM_JITTER: u16 = 11;
const LINK_LAYER_ETHERNET: u8 = 1;

const U32_SELECTOR: u16 = 5;
const U32_ACTIONS: u16 = 7;
const U32_TERMINAL: u8 = 1;
const ACTION_KIND: u16 = 1;
const ACTION_OPTIONS: u16 = 2;
const MIRRED_PARAMETERS: u16 = 2;
const MIRRED_EGRESS_REDIRECT: i32 = 1;
const ACTION_STOLEN: i32 = 4;

/// A token bucket: what an interface sends beyond the rate waits, and is dropped where too much waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// The rate that holds in the long run.
    pub rate_bytes_per_second: u64,
    /// What may be sent at once after a pause; a packet that is larger is cut where it can be, and dropped where not.
    pub burst_bytes: u32,
    /// What may wait.
    pub limit_bytes: u32,
}

/// A delay (netem): what an interface sends waits for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// How long each packet waits.
    pub delay: Duration,
    /// By how much that varies either way, evenly.
    pub jitter: Duration,
    /// The rate at which packets leave; none is unlimited.
    pub rate_bytes_per_second: Option<u64>,
    /// How many packets may wait; more are dropped.
    pub limit_packets: u32,
}

impl RouteBatch {
    /// Delays what an interface sends; replaces what delayed or limited it before. Kernels without netem refuse it as not found.
    pub fn set_delay(&mut self, interface: u32, delay: &Delay) {
        let operation = format!("delay what interface {interface} sends (netem)");
        let place = (interface, HANDLE_ROOT, PARENT_ROOT, 0);
        self.begin_traffic(NEW_QUEUE, FLAG_CREATE | FLAG_REPLACE, place, "netem", operation);
        let nanoseconds = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX).to_ne_bytes();
        self.batch.nested(OPTIONS, |batch| {
            // struct tc_netem_qopt: the limit; its own times are in the kernel's ticks, and the attributes replace them.
            let mut parameters = [0_u8; 24];
            parameters[4..8].copy_from_slice(&delay.limit_packets.to_ne_bytes());
            batch.raw(&parameters);
            if let Some(rate) = delay.rate_bytes_per_second {
                // struct tc_netem_rate: the rate, or all ones where the other attribute has it.
                let mut parameters = [0_u8; 16];
                let (short, long) = u32::try_from(rate).map_or((u32::MAX, true), |rate| (rate, false));
                parameters[..4].copy_from_slice(&short.to_ne_bytes());
                batch.attribute(NETEM_RATE, &parameters);
                if long {
                    batch.attribute(NETEM_RATE_LONG, &rate.to_ne_bytes());
                }
            }
            batch.attribute(NETEM_DELAY, &nanoseconds(delay.delay));
            batch.attribute(NETEM_JITTER, &nanoseconds(delay.jitter));
        });
        self.batch.end();
    }

    /// Takes away what delays or limits what an interface sends; not found where nothing does.
    pub fn delete_queue(&mut self, interface: u32) {
        let operation = format!("let interface {interface} send as it likes");
        self.batch.begin(DELETE_QUEUE, FLAG_REQUEST | FLAG_ACK, operation);
        self.batch.raw(&place_header((interface, 0, PARENT_ROOT, 0)));
        self.batch.end();
    }

    /// Makes an intermediate functional block: an interface with a queue for what arrives at another one. It is up.
    pub fn add_functional_block(&mut self, name: &str, mtu_bytes: u32) {
        let operation = format!("create interface {name} of kind ifb");
        self.begin_link(NEW_LINK, FLAG_CREATE | FLAG_EXCLUSIVE, 0, INTERFACE_UP, INTERFACE_UP, operation);
        self.batch.attribute_str(LINK_NAME, name);
        self.batch.attribute_u32(LINK_MTU, mtu_bytes);
        self.batch.nested(LINK_INFO, |batch| batch.attribute_str(INFO_KIND, "ifb"));
        self.batch.end();
    }

    /// Limits what an interface sends; replaces what limited it before.
    pub fn set_token_bucket(&mut self, interface: u32, bucket: &TokenBucket) {
        let operation = format!("limit what interface {interface} sends with a token bucket (tbf)");
        self.begin_traffic(
            NEW_QUEUE,
            FLAG_CREATE | FLAG_REPLACE,
            (interface, HANDLE_ROOT, PARENT_ROOT, 0),
            "tbf",
            operation,
        );
        self.batch.nested(OPTIONS, |batch| {
            batch.attribute(BUCKET_PARAMETERS, &bucket_parameters(bucket));
            batch.attribute(BUCKET_RATE, &bucket.rate_bytes_per_second.to_ne_bytes());
            batch.attribute_u32(BUCKET_BURST, bucket.burst_bytes);
        });
        self.batch.end();
    }

    /// Gives an interface the place where filters see what arrives.
    pub fn add_ingress(&mut self, interface: u32) {
        let operation = format!("look at what arrives at interface {interface} (ingress)");
        let place = (interface, HANDLE_INGRESS, PARENT_INGRESS, 0);
        self.begin_traffic(NEW_QUEUE, FLAG_CREATE | FLAG_EXCLUSIVE, place, "ingress", operation);
        self.batch.end();
    }

    /// Takes that place away, with all filters.
    pub fn delete_ingress(&mut self, interface: u32) {
        let operation = format!("look no longer at what arrives at interface {interface}");
        let place = (interface, HANDLE_INGRESS, PARENT_INGRESS, 0);
        self.begin_traffic(DELETE_QUEUE, 0, place, "ingress", operation);
        self.batch.end();
    }

    /// Has all that arrives at an interface pass the queue of another one first.
    pub fn redirect_ingress(&mut self, interface: u32, through: u32) {
        let operation = format!("redirect what arrives at interface {interface} (u32, mirred)");
        let information = FILTER_PRIORITY << 16 | u32::from(ALL_PROTOCOLS.to_be());
        let place = (interface, 0, HANDLE_INGRESS, information);
        self.begin_traffic(NEW_FILTER, FLAG_CREATE | FLAG_EXCLUSIVE, place, "u32", operation);
        self.batch.nested(OPTIONS, |batch| {
            batch.attribute(U32_SELECTOR, &select_everything());
            batch.nested(U32_ACTIONS, |batch| {
                batch.nested(1, |batch| {
                    batch.attribute_str(ACTION_KIND, "mirred");
                    batch.nested(ACTION_OPTIONS, |batch| mirred(batch, through));
                });
            });
        });
        self.batch.end();
    }

    /// Begins a message about (interface, handle, parent, information).
    fn begin_traffic(&mut self, kind: u16, flags: u16, place: (u32, u32, u32, u32), name: &str, operation: String) {
        self.batch.begin(kind, FLAG_REQUEST | FLAG_ACK | flags, operation);
        self.batch.raw(&place_header(place));
        self.batch.attribute_str(KIND, name);
    }
}

/// struct tcmsg.
fn place_header(place: (u32, u32, u32, u32)) -> [u8; 20] {
    let mut header = [0_u8; 20];
    header[4..8].copy_from_slice(&place.0.to_ne_bytes());
    header[8..12].copy_from_slice(&place.1.to_ne_bytes());
    header[12..16].copy_from_slice(&place.2.to_ne_bytes());
    header[16..20].copy_from_slice(&place.3.to_ne_bytes());
    header
}

/// struct tc_tbf_qopt: the rate, no peak rate, the limit; the burst in bytes has an attribute of its own.
fn bucket_parameters(bucket: &TokenBucket) -> [u8; 36] {
    let mut parameters = [0; 36];
    parameters[1] = LINK_LAYER_ETHERNET;
    let rate = u32::try_from(bucket.rate_bytes_per_second).unwrap_or(u32::MAX);
    parameters[8..12].copy_from_slice(&rate.to_ne_bytes());
    parameters[24..28].copy_from_slice(&bucket.limit_bytes.to_ne_bytes());
    parameters
}

/// struct tc_u32_sel with one key that every packet has: no bit of the first four bytes is compared.
fn select_everything() -> [u8; 32] {
    let mut selector = [0; 32];
    selector[0] = U32_TERMINAL;
    selector[2] = 1;
    selector
}

/// struct tc_mirred.
fn mirred(batch: &mut Batch, to: u32) {
    let mut parameters = [0_u8; 28];
    parameters[8..12].copy_from_slice(&ACTION_STOLEN.to_ne_bytes());
    parameters[20..24].copy_from_slice(&MIRRED_EGRESS_REDIRECT.to_ne_bytes());
    parameters[24..28].copy_from_slice(&to.to_ne_bytes());
    batch.attribute(MIRRED_PARAMETERS, &parameters);
}
