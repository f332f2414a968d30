//! Brings the kernel from the Services programmed to the Services wanted, in one transaction per change.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use super::claims::Claims;
use super::compile::{Action, CompiledPort, FrontKey, compile};
use super::error::Error;
use super::flows::Leftovers;
use super::layout::{
    self, ACTION_ID_MAX, Kind, LOCAL_INDEX_OFFSET, NewAction, SLOT_MAX, SetName, TABLE, front_bytes, front_value,
    port_bytes, slot_field,
};
use super::state::{ServiceKey, ServiceState, TransportProtocol};
use super::tokens::Tokens;
use crate::Prefix;
use crate::netlink::{Conntrack, Element, Family, NetworkNamespace, Nft, NftBatch, TableWatch, Watched};
use crate::prefix::address_bytes;

/// Past this many distinct actions (endpoint counts that came and went), or twice those of the last rebuild, the tables are rebuilt.
/// Making an action costs the kernel a walk over all others: a thousand take it half a second, all that have a number half a minute.
const ACTIONS_MAX: usize = 1024;

/// Where and for which addresses Services are programmed.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespace of the host.
    pub namespace: NetworkNamespace,
    /// The families to program; a kernel without IPv6 wants only [`Family::Ip`].
    pub families: Vec<Family>,
    /// The ranges of all pods of the cluster: their source addresses are preserved.
    pub pod_ranges: Vec<Prefix>,
    /// The ranges of cluster addresses: what no Service has in them is refused.
    pub service_ranges: Vec<Prefix>,
    /// The node's primary addresses, at most one per family.
    pub node_addresses: Vec<IpAddr>,
    /// Addresses in the service ranges that this host itself answers on (cluster DNS): never translated.
    pub local_addresses: Vec<IpAddr>,
}

impl Options {
    /// Options for a namespace, both families, without ranges.
    #[must_use]
    pub fn new(namespace: NetworkNamespace) -> Self {
        Self {
            namespace,
            families: vec![Family::Ip, Family::Ip6],
            pod_ranges: Vec::new(),
            service_ranges: Vec::new(),
            node_addresses: Vec::new(),
            local_addresses: Vec::new(),
        }
    }
}

/// What a change did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Elements added.
    pub added: usize,
    /// Elements deleted.
    pub deleted: usize,
    /// Whether the tables were rebuilt.
    pub resynchronised: bool,
    /// Addresses and ports left out because there are no numbers left for them.
    pub left_out: usize,
}

#[derive(Clone)]
struct Programmed {
    port: CompiledPort,
    slot: u32,
    /// Of the endpoints, where clients are remembered.
    tokens: Tokens,
}

type Location = (Family, SetName);
/// An action, and where pods and the node itself go instead.
type ActionKey = (Family, Kind, Action, Option<Action>);

/// Programs Services. Every call blocks on the kernel (well under a millisecond for one change): use it from a thread of its own.
pub struct Programmer {
    options: Options,
    nft: Nft,
    leftovers: Leftovers,
    wanted: HashMap<ServiceKey, Arc<ServiceState>>,
    programmed: HashMap<ServiceKey, Vec<Programmed>>,
    claims: Claims,
    actions: HashMap<ActionKey, u32>,
    actions_max: usize,
    action_id_max: u32,
    affinities: HashSet<Family>,
    hairpins: HashMap<IpAddr, u32>,
    free_slots: Vec<u32>,
    next_slot: u32,
    next_token: u32,
    needs_resync: bool,
    watch: TableWatch,
}

/// The messages and after-effects of one change, collected before anything is sent.
#[derive(Default)]
struct Plan {
    new_actions: Vec<NewAction>,
    new_affinities: Vec<Family>,
    added: HashMap<Location, Vec<Element>>,
    deleted: HashMap<Location, Vec<Element>>,
    hairpin_changes: HashMap<IpAddr, i64>,
    leftovers: Leftovers,
    left_out: usize,
}

impl Programmer {
    /// Opens the sockets. Nothing is changed before the first [`Programmer::resync`] or [`Programmer::apply`].
    pub fn new(options: Options) -> Result<Self, Error> {
        let nft = Nft::open_in(&options.namespace)?;
        Ok(Self {
            options,
            nft,
            leftovers: Leftovers::default(),
            wanted: HashMap::new(),
            programmed: HashMap::new(),
            claims: Claims::default(),
            actions: HashMap::new(),
            actions_max: ACTIONS_MAX,
            action_id_max: ACTION_ID_MAX,
            affinities: HashSet::new(),
            hairpins: HashMap::new(),
            free_slots: Vec::new(),
            next_slot: 1,
            next_token: 0,
            needs_resync: true,
            watch: TableWatch::default(),
        })
    }

    /// Applies changes: a Service's new state, or none when it is gone. After an error the next call resynchronises.
    pub fn apply(
        &mut self,
        changes: impl IntoIterator<Item = (ServiceKey, Option<Arc<ServiceState>>)>,
    ) -> Result<Report, Error> {
        let mut keys = VecDeque::new();
        for (key, state) in changes {
            match state {
                Some(state) => self.wanted.insert(key.clone(), state),
                None => self.wanted.remove(&key),
            };
            keys.push_back(key);
        }
        if self.needs_resync || self.actions.len() > self.actions_max {
            return self.resync();
        }
        let mut plan = Plan::default();
        self.plan(keys, &mut plan);
        if plan.left_out > 0 {
            // Numbers of actions that nothing uses any more are still taken.
            return self.resync();
        }
        match self.commit(NftBatch::new(), plan) {
            // Somebody flushed the tables or deleted elements.
            Err(Error::Netlink(error)) if error.is_not_found() => {
                tracing::warn!(%error, "the tables of Services were changed by another program; they are rebuilt");
                self.resync()
            }
            other => other,
        }
    }

    /// Looks whether the tables are still there and whole, and rebuilds them if not; true if it had to. To be called every few seconds:
    /// where nothing changed it costs one question to the kernel.
    pub fn verify(&mut self) -> Result<bool, Error> {
        if !self.needs_resync && self.watch.is_intact(&mut self.nft)? {
            return Ok(false);
        }
        if !self.needs_resync {
            tracing::warn!("the tables of Services were removed or changed by another program; they are rebuilt");
        }
        self.resync().map(|_| true)
    }

    /// Replaces everything wanted and rebuilds the tables: at start, and when options change.
    pub fn replace(&mut self, services: HashMap<ServiceKey, Arc<ServiceState>>) -> Result<Report, Error> {
        self.wanted = services;
        self.resync()
    }

    /// Changes the ranges and addresses; the tables are rebuilt.
    pub fn set_options(&mut self, options: Options) -> Result<Report, Error> {
        self.options = options;
        self.resync()
    }

    /// Rebuilds the tables from what is wanted, atomically: no packet sees an intermediate state, and leftovers vanish.
    pub fn resync(&mut self) -> Result<Report, Error> {
        self.programmed.clear();
        self.claims = Claims::default();
        self.actions.clear();
        self.affinities.clear();
        self.hairpins.clear();
        self.free_slots.clear();
        self.next_slot = 1;
        self.needs_resync = true;
        let mut batch = NftBatch::new();
        for family in &self.options.families {
            layout::add_base(&mut batch, *family, &self.options);
        }
        let of_family = |family: &Family| Watched::made_by(&batch, *family, TABLE, layout::BASE_CHAINS);
        let watched = self.options.families.iter().map(of_family).collect();
        let mut keys: Vec<_> = self.wanted.keys().cloned().collect();
        // A fixed order makes the same Service win a contested address after every restart.
        keys.sort_unstable();
        let mut plan = Plan::default();
        self.plan(keys.into(), &mut plan);
        // What a rebuild leaves behind is found by what is known then.
        plan.leftovers = Leftovers::default();
        self.actions_max = (2 * self.actions.len()).max(ACTIONS_MAX);
        let mut report = self.commit(batch, plan)?;
        self.watch = TableWatch::learn(&mut self.nft, watched)?;
        report.resynchronised = true;
        if report.left_out > 0 {
            tracing::error!(
                report.left_out,
                slots_max = SLOT_MAX,
                actions_max = ACTION_ID_MAX,
                "more Services than this node has numbers for: the last of them are not reachable here"
            );
        }
        let ports = self.programmed.values().flatten().map(|programmed| &programmed.port);
        self.leftovers.append(Leftovers::after_rebuild(ports));
        Ok(report)
    }

    fn plan(&mut self, mut keys: VecDeque<ServiceKey>, plan: &mut Plan) {
        while let Some(key) = keys.pop_front() {
            let before = self.programmed.remove(&key).unwrap_or_default();
            let mut ports = self.wanted.get(&key).map(|state| compile(state)).unwrap_or_default();
            ports.retain(|port| self.options.families.contains(&port.family));
            for port in &mut ports {
                port.fronts.retain(|front| self.claims.claim(front.key, &key));
            }
            let kept: HashSet<FrontKey> =
                ports.iter().flat_map(|port| port.fronts.iter().map(|front| front.key)).collect();
            for front in before.iter().flat_map(|programmed| &programmed.port.fronts) {
                if !kept.contains(&front.key)
                    && let Some(heir) = self.claims.release(front.key, &key)
                {
                    keys.push_back(heir);
                }
            }
            let mut after = Vec::with_capacity(ports.len());
            for mut port in ports {
                let old = before.iter().find(|old| identity(&old.port) == identity(&port));
                let Some(slot) = old.map(|old| old.slot).or_else(|| self.allocate_slot()) else {
                    plan.left_out += port.fronts.len();
                    continue;
                };
                if let Some(old) = old {
                    keep_order(&old.port.cluster, &mut port.cluster);
                    keep_order(&old.port.local, &mut port.local);
                }
                let tokens = if port.has_affinity {
                    let endpoints = port.cluster.iter().chain(&port.local);
                    Tokens::renewed(old.map(|old| &old.tokens), endpoints, &mut self.next_token)
                } else {
                    Tokens::default()
                };
                let new = Programmed { port, slot, tokens };
                self.difference(old, Some(&new), plan);
                after.push(new);
            }
            for old in &before {
                if !after.iter().any(|new| identity(&new.port) == identity(&old.port)) {
                    self.difference(Some(old), None, plan);
                    self.free_slots.push(old.slot);
                }
            }
            if !after.is_empty() {
                self.programmed.insert(key, after);
            }
        }
    }

    fn allocate_slot(&mut self) -> Option<u32> {
        self.free_slots.pop().or_else(|| {
            let slot = self.next_slot;
            self.next_slot = (slot + 1).min(SLOT_MAX + 1);
            (slot <= SLOT_MAX).then_some(slot)
        })
    }

    fn difference(&mut self, old: Option<&Programmed>, new: Option<&Programmed>, plan: &mut Plan) {
        let before = old.map(|old| self.elements(old, plan)).unwrap_or_default();
        let after = new.map(|new| self.elements(new, plan)).unwrap_or_default();
        if old.is_none() {
            for (location, element) in after {
                plan.added.entry(location).or_default().push(element);
            }
        } else {
            let had: HashSet<&(Location, Element)> = before.iter().collect();
            let has: HashSet<&(Location, Element)> = after.iter().collect();
            for (location, element) in before.iter().filter(|element| !has.contains(element)) {
                plan.deleted.entry(*location).or_default().push(element.clone());
            }
            for (location, element) in after.iter().filter(|element| !had.contains(element)) {
                plan.added.entry(*location).or_default().push(element.clone());
            }
        }
        for (programmed, change) in [(old, -1), (new, 1)] {
            for address in programmed.iter().flat_map(|programmed| &programmed.port.hairpins) {
                *plan.hairpin_changes.entry(*address).or_default() += change;
            }
        }
        plan.leftovers.note(old.map(|old| &old.port), new.map(|new| &new.port));
    }

    /// All elements of a port, which follow from it and its slot alone.
    fn elements(&mut self, programmed: &Programmed, plan: &mut Plan) -> Vec<(Location, Element)> {
        let Programmed { port, slot: number, tokens } = programmed;
        let slot = slot_field(*number);
        let mut elements = Vec::with_capacity(port.fronts.len() + port.cluster.len() + port.local.len());
        let mut add = |set: SetName, key: Vec<u8>, key_end: Option<Vec<u8>>, value: Option<Vec<u8>>| {
            elements.push(((port.family, set), Element { key, key_end, value, verdict: None }));
        };
        let mut is_restricted = false;
        for front in &port.fronts {
            let kind = Kind::of(&front.key);
            let alternate = front.action.has_alternate.then_some(front.alternate);
            let Some(action) = self.action_id((port.family, kind, front.action, alternate), plan) else {
                plan.left_out += 1;
                continue;
            };
            is_restricted |= front.action.is_restricted;
            let set = if kind == Kind::Address { SetName::ServicePorts } else { SetName::NodePorts };
            add(set, front_bytes(&front.key), None, Some(front_value(*number, action).to_vec()));
        }
        let endpoint_bytes =
            |(ip, endpoint_port): &(IpAddr, u16)| [address_bytes(*ip), port_bytes(*endpoint_port).to_vec()].concat();
        for (list, offset) in [(&port.cluster, 0), (&port.local, LOCAL_INDEX_OFFSET)] {
            for (index, endpoint) in (offset..).zip(list) {
                let key = [slot, index.to_ne_bytes()].concat();
                if port.has_affinity {
                    let token = tokens.of(endpoint).unwrap_or(0);
                    add(SetName::Picks, key, None, Some(token.to_ne_bytes().to_vec()));
                } else {
                    add(SetName::Backends, key, None, Some(endpoint_bytes(endpoint)));
                }
            }
        }
        for (endpoint, token) in tokens.iter() {
            add(SetName::Members, [slot, token.to_ne_bytes()].concat(), None, Some(endpoint_bytes(endpoint)));
        }
        if is_restricted {
            for range in outermost(&port.source_ranges) {
                let key = [slot.to_vec(), address_bytes(range.network())].concat();
                let end = [slot.to_vec(), address_bytes(range.last())].concat();
                add(SetName::SourceRanges, key, Some(end), None);
            }
        }
        elements
    }

    /// The number of an action, which is made if it is new; none if there is no number left.
    fn action_id(&mut self, key: ActionKey, plan: &mut Plan) -> Option<u32> {
        if let Some(id) = self.actions.get(&key) {
            return Some(*id);
        }
        let (family, kind, action, alternate) = key;
        let alternate = match alternate {
            Some(alternate) => Some((self.action_id((family, kind, alternate, None), plan)?, alternate)),
            None => None,
        };
        let id = u32::try_from(self.actions.len()).ok()? + 1;
        if id > self.action_id_max {
            return None;
        }
        self.actions.insert(key, id);
        plan.new_actions.push(NewAction { family, kind, id, action, alternate });
        if action.affinity_timeout_s.is_some() && self.affinities.insert(family) {
            plan.new_affinities.push(family);
        }
        Some(id)
    }

    fn commit(&mut self, mut batch: NftBatch, mut plan: Plan) -> Result<Report, Error> {
        for (address, change) in std::mem::take(&mut plan.hairpin_changes) {
            let family = Family::of(address);
            let had = self.hairpins.get(&address).copied().unwrap_or(0);
            let has = u32::try_from(i64::from(had) + change).unwrap_or(0);
            let element = || Element::key([address_bytes(address), address_bytes(address)].concat());
            if had == 0 && has > 0 {
                plan.added.entry((family, SetName::Hairpins)).or_default().push(element());
            } else if had > 0 && has == 0 {
                plan.deleted.entry((family, SetName::Hairpins)).or_default().push(element());
            }
            if has == 0 {
                self.hairpins.remove(&address);
            } else {
                self.hairpins.insert(address, has);
            }
        }
        for family in &plan.new_affinities {
            layout::add_affinity_map(&mut batch, *family);
        }
        for action in &plan.new_actions {
            layout::add_action(&mut batch, action);
        }
        for ((family, set), elements) in &plan.deleted {
            batch.delete_elements(*family, TABLE, set.text(), elements);
        }
        for ((family, set), elements) in &plan.added {
            batch.add_elements(*family, TABLE, set.text(), elements);
        }
        self.needs_resync = true;
        batch.commit(self.nft.socket())?;
        self.needs_resync = false;
        self.leftovers.append(plan.leftovers);
        Ok(Report {
            added: plan.added.values().map(Vec::len).sum(),
            deleted: plan.deleted.values().map(Vec::len).sum(),
            resynchronised: false,
            left_out: plan.left_out,
        })
    }

    /// The families that are programmed.
    pub(crate) fn families(&self) -> &[Family] {
        &self.options.families
    }

    /// The connections that changes have left behind since the last call, for whoever forgets them.
    pub(crate) fn take_leftovers(&mut self) -> Leftovers {
        std::mem::take(&mut self.leftovers)
    }

    /// Forgets connections that changes left behind, and returns how many: clients would be led to endpoints that are gone. It costs a walk over
    /// the kernel's whole table (milliseconds): [`super::Services`] does it on a thread of its own.
    pub fn forget_leftovers(&mut self) -> Result<usize, Error> {
        let leftovers = self.take_leftovers();
        if leftovers.is_empty() {
            return Ok(0);
        }
        let mut conntrack = Conntrack::open_in(&self.options.namespace)?;
        Ok(leftovers.forget(&mut conntrack, &self.options.families))
    }
}

/// Removes everything that a [`Programmer`] makes in a namespace.
pub fn purge(namespace: &NetworkNamespace) -> Result<(), Error> {
    Ok(Nft::open_in(namespace)?.delete_tables(&[TABLE])?)
}

fn identity(port: &CompiledPort) -> (Family, TransportProtocol, u16) {
    (port.family, port.protocol, port.port)
}

/// Reorders `new` so that endpoints which stay keep their place in the list: a change then touches few elements.
fn keep_order(old: &[(IpAddr, u16)], new: &mut [(IpAddr, u16)]) {
    let places: HashMap<(IpAddr, u16), usize> =
        old.iter().take(new.len()).enumerate().map(|(place, endpoint)| (*endpoint, place)).collect();
    let mut result: Vec<Option<(IpAddr, u16)>> = vec![None; new.len()];
    let mut homeless = Vec::new();
    for endpoint in new.iter() {
        match places.get(endpoint).and_then(|place| result.get_mut(*place)) {
            Some(place) => *place = Some(*endpoint),
            None => homeless.push(*endpoint),
        }
    }
    let mut homeless = homeless.into_iter();
    for (target, place) in new.iter_mut().zip(result) {
        if let Some(endpoint) = place.or_else(|| homeless.next()) {
            *target = endpoint;
        }
    }
}

/// Ranges that lie within another of the list go: the kernel refuses overlapping elements.
fn outermost(ranges: &[Prefix]) -> Vec<Prefix> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| (range.length(), range.network()));
    let mut kept: Vec<Prefix> = Vec::new();
    for range in sorted {
        if !kept.iter().any(|outer| outer.contains(range.network())) {
            kept.push(range);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::services::{Endpoint, ServicePort};

    #[test]
    fn endpoints_that_stay_keep_their_place() {
        let list = |names: &[u8]| names.iter().map(|name| (IpAddr::from([10, 0, 0, *name]), 80)).collect::<Vec<_>>();
        for (old, new, wanted) in [
            (&[1, 2, 3, 4][..], &[1, 3, 4][..], &[1, 4, 3][..]),
            (&[1, 2], &[2, 3, 1], &[1, 2, 3]),
            (&[5], &[1, 2], &[1, 2]),
            (&[], &[1], &[1]),
            (&[1], &[], &[]),
        ] {
            let mut result = list(new);
            keep_order(&list(old), &mut result);
            assert_eq!(result, list(wanted), "{old:?} -> {new:?}");
        }
    }

    #[test]
    fn more_kinds_of_services_than_there_are_numbers_for_leave_out_the_last() {
        let mut options = Options::new(NetworkNamespace::create().unwrap());
        options.families = vec![Family::Ip];
        let mut programmer = Programmer::new(options).unwrap();
        programmer.action_id_max = 20;
        // Each timeout is an action of its own.
        let state = |number: u8| {
            Some(Arc::new(ServiceState {
                cluster_ips: vec![IpAddr::from([10, 43, 0, number])],
                affinity_timeout_s: Some(u32::from(number)),
                ports: vec![ServicePort {
                    port: 80,
                    endpoints: vec![Endpoint::ready(IpAddr::from([10, 42, 0, number]), 80)],
                    ..ServicePort::default()
                }],
                ..ServiceState::default()
            }))
        };
        let key = |number: u8| ServiceKey::new("default", format!("s{number:03}"));
        let report =
            programmer.replace((1..=23).map(|number| (key(number), state(number).unwrap())).collect()).unwrap();
        assert_eq!((report.resynchronised, report.left_out), (true, 3));
        let report = programmer.apply([(key(24), state(24))]).unwrap();
        assert_eq!((report.resynchronised, report.left_out), (true, 4), "a rebuild was tried");
        // Where some go, others get their numbers.
        let report = programmer.apply((1..=4).map(|number| (key(number), None))).unwrap();
        assert_eq!((report.resynchronised, report.left_out), (false, 0));
        let report = programmer.apply([(key(24), state(24))]).unwrap();
        assert_eq!((report.resynchronised, report.left_out), (true, 0));
        assert_eq!(programmer.actions.len(), 20);
    }

    #[test]
    fn nested_ranges_collapse() {
        let ranges: Vec<Prefix> = ["10.1.2.0/24", "10.0.0.0/8", "192.0.2.1/32", "192.0.2.1/32"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        assert_eq!(outermost(&ranges), ["10.0.0.0/8".parse().unwrap(), "192.0.2.1/32".parse().unwrap()]);
    }
}
