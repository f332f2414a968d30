//! Brings the kernel from the rules programmed to the rules wanted, in one transaction per change.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::error::Error;
use super::layout::{Chain, Direction, Layout, Names, compile};
use super::model::{Model, PodChange};
use super::revoke;
use super::rules::{self, TABLE};
use super::selections::{Member, MemberChanges, Selections, matches};
use super::state::{Labels, LocalPod, PodState, Policy, PolicyKey};
use crate::netlink::{Conntrack, Element, Family, NetworkNamespace, Nft, NftBatch};

/// Where policies are programmed.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespace of the host.
    pub namespace: NetworkNamespace,
    /// The families to program.
    pub families: Vec<Family>,
    /// What counts as a pod for selectors without being one, by a made-up uid: cluster DNS.
    pub stand_ins: Vec<(String, PodState)>,
}

/// A change of what is known.
#[derive(Clone, Debug)]
pub enum Change {
    /// A policy, or none where it is gone.
    Policy(PolicyKey, Option<Arc<Policy>>),
    /// A namespace's labels, or none where it is gone.
    Namespace(String, Option<Labels>),
    /// A pod that counts, by its uid, or none where it does not (any more).
    Pod(String, Option<Arc<PodState>>),
    /// A pod that was attached to this node.
    Attached(LocalPod),
    /// A pod that was detached from this node, by its uid.
    Detached(String),
    /// All policies, after a list.
    Policies(Vec<(PolicyKey, Arc<Policy>)>),
    /// All namespaces, after a list.
    Namespaces(Vec<(String, Labels)>),
    /// All pods that count, after a list.
    Pods(Vec<(String, Arc<PodState>)>),
    /// All pods that are attached to this node: those that an earlier agent left.
    Recovered(Vec<LocalPod>),
    /// Policies, namespaces and pods have all been told: of the API, or of a checkpoint.
    Known,
}

/// What a call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Elements added.
    pub added: usize,
    /// Elements deleted.
    pub deleted: usize,
    /// Chains whose rules were written.
    pub chains: usize,
    /// Whether the tables were rebuilt.
    pub rebuilt: bool,
    /// Whether connections that stand may have lost their permission.
    pub restricts: bool,
}

/// Programs policies. Every call blocks on the kernel: use it from a thread of its own.
pub struct Programmer {
    options: Options,
    nft: Nft,
    conntrack: Conntrack,
    model: Model,
    selections: Selections,
    names: Names,
    layout: Layout,
    is_known: bool,
    has_recovered: bool,
    needs_rebuild: bool,
    needs_compile: bool,
    /// The rules that the fixed chains have, to notice when others remove them.
    fixed_rules: Vec<usize>,
    /// The last look that found everything.
    verified: Option<Verified>,
}

/// A look at the tables.
#[derive(Clone, Copy)]
struct Verified {
    /// The number of the kernel's last commit before it.
    generation: u32,
    is_thorough: bool,
}

impl Programmer {
    /// Opens the sockets. Nothing is changed before everything is known: [`Change::Known`] and [`Change::Recovered`].
    pub fn new(options: Options) -> Result<Self, Error> {
        let nft = Nft::open_in(&options.namespace)?;
        let conntrack = Conntrack::open_in(&options.namespace)?;
        let mut model = Model::default();
        for (uid, state) in &options.stand_ins {
            model.set_told(uid, Some(Arc::new(state.clone())));
        }
        Ok(Self {
            options,
            nft,
            conntrack,
            model,
            selections: Selections::default(),
            names: Names::default(),
            layout: Layout::default(),
            is_known: false,
            has_recovered: false,
            needs_rebuild: true,
            verified: None,
            needs_compile: true,
            fixed_rules: Vec::new(),
        })
    }

    /// Whether enough is known to program.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.is_known && self.has_recovered
    }

    /// Takes changes over and brings the kernel to them, once everything is known. After an error the next call rebuilds.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Result<Report, Error> {
        for change in changes {
            self.take(change);
        }
        if !self.is_ready() {
            return Ok(Report::default());
        }
        if self.needs_rebuild {
            return self.rebuild();
        }
        self.commit()
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Policy(key, policy) => {
                let before = match &policy {
                    Some(policy) => self.model.policies.insert(key, Arc::clone(policy)),
                    None => self.model.policies.remove(&key),
                };
                self.needs_compile |= before != policy;
            }
            Change::Policies(all) => {
                let all: BTreeMap<_, _> = all.into_iter().collect();
                self.needs_compile |= self.model.policies != all;
                self.model.policies = all;
            }
            Change::Namespace(name, labels) => self.take_namespace(name, labels),
            Change::Namespaces(all) => {
                let named: HashSet<&String> = all.iter().map(|(name, _)| name).collect();
                let gone: Vec<String> =
                    self.model.namespaces.keys().filter(|name| !named.contains(name)).cloned().collect();
                gone.into_iter().for_each(|name| self.take_namespace(name, None));
                all.into_iter().for_each(|(name, labels)| self.take_namespace(name, Some(labels)));
            }
            Change::Pod(uid, state) => self.take_pod(&uid, state),
            Change::Pods(all) => {
                let mut kept: HashSet<&String> = all.iter().map(|(uid, _)| uid).collect();
                kept.extend(self.options.stand_ins.iter().map(|(uid, _)| uid));
                let gone: Vec<String> = self.model.told().filter(|uid| !kept.contains(uid)).cloned().collect();
                gone.iter().for_each(|uid| self.take_pod(uid, None));
                all.into_iter().for_each(|(uid, state)| self.take_pod(&uid, Some(state)));
            }
            Change::Attached(pod) => self.take_local(&pod.uid.clone(), Some(pod)),
            Change::Detached(uid) => self.take_local(&uid, None),
            Change::Recovered(all) => {
                let kept: HashSet<&String> = all.iter().map(|pod| &pod.uid).collect();
                let gone: Vec<String> = self.model.local.keys().filter(|uid| !kept.contains(uid)).cloned().collect();
                gone.iter().for_each(|uid| self.take_local(uid, None));
                all.into_iter().for_each(|pod| self.take_local(&pod.uid.clone(), Some(pod)));
                self.has_recovered = true;
            }
            Change::Known => self.is_known = true,
        }
    }

    fn take_namespace(&mut self, name: String, labels: Option<Labels>) {
        let after = labels.map(Arc::new);
        let before = match &after {
            Some(labels) => self.model.namespaces.insert(name.clone(), Arc::clone(labels)),
            None => self.model.namespaces.remove(&name),
        };
        if before == after {
            return;
        }
        for pod in self.model.pods_of(&name) {
            self.selections.change(Some((pod, before.as_deref())), Some((pod, after.as_deref())));
        }
    }

    fn take_pod(&mut self, uid: &str, state: Option<Arc<PodState>>) {
        let change = self.model.set_told(uid, state);
        self.take_change(uid, &change);
    }

    fn take_local(&mut self, uid: &str, pod: Option<LocalPod>) {
        let change = self.model.set_local(uid, pod);
        self.needs_compile = true;
        self.take_change(uid, &change);
    }

    fn take_change(&mut self, uid: &str, change: &PodChange) {
        if change.before == change.after {
            return;
        }
        self.needs_compile |= self.model.local.contains_key(uid);
        let with_labels = |pod: &Option<Arc<PodState>>| {
            pod.clone().map(|pod| {
                let labels = self.model.namespaces.get(&pod.namespace).cloned();
                (pod, labels)
            })
        };
        let (before, after) = (with_labels(&change.before), with_labels(&change.after));
        let of = |pod: &Option<(Arc<PodState>, Option<Arc<Labels>>)>| pod.clone();
        let (before, after) = (of(&before), of(&after));
        self.selections.change(
            before.as_ref().map(|(pod, labels)| (&**pod, labels.as_deref())),
            after.as_ref().map(|(pod, labels)| (&**pod, labels.as_deref())),
        );
    }

    /// Makes the tables anew from what is known, atomically: no packet sees an intermediate state, and leftovers vanish.
    pub fn rebuild(&mut self) -> Result<Report, Error> {
        self.needs_rebuild = true;
        self.selections.clear();
        self.names = Names::default();
        let layout = compile(&self.model, &mut self.selections, &mut self.names);
        let mut batch = NftBatch::new();
        let mut report = Report { rebuilt: true, restricts: true, ..Report::default() };
        for family in self.options.families.clone() {
            rules::add_base(&mut batch, family);
            let difference = Difference { old: &Layout::default(), new: &layout, family };
            difference.write(&mut batch, &self.selections, &MemberChanges::default(), &mut report);
        }
        batch.commit(self.nft.socket())?;
        self.selections.take_changes();
        self.layout = layout;
        self.fixed_rules = self.count_fixed_rules()?;
        self.needs_rebuild = false;
        self.needs_compile = false;
        Ok(report)
    }

    fn commit(&mut self) -> Result<Report, Error> {
        self.needs_rebuild = true;
        let layout = if self.needs_compile {
            compile(&self.model, &mut self.selections, &mut self.names)
        } else {
            self.layout.clone()
        };
        let changes = self.selections.take_changes();
        let mut batch = NftBatch::new();
        let mut report = Report::default();
        for family in self.options.families.clone() {
            let difference = Difference { old: &self.layout, new: &layout, family };
            difference.write(&mut batch, &self.selections, &changes, &mut report);
        }
        batch.commit(self.nft.socket())?;
        self.selections.retain(|id| layout.selections.contains_key(&id));
        self.layout = layout;
        self.needs_rebuild = false;
        self.needs_compile = false;
        Ok(report)
    }

    /// Looks whether the tables are still there, and thoroughly also whether the fixed chains have their rules; rebuilds them if not.
    pub fn verify(&mut self, is_thorough: bool) -> Result<bool, Error> {
        if !self.is_ready() {
            return Ok(true);
        }
        // The kernel numbers its commits: what was looked at after the last one is still so. Asked before the look, so that a commit
        // meanwhile is seen by the next one.
        let generation = self.nft.generation()?;
        let known = self.verified.filter(|verified| !self.needs_rebuild && verified.generation == generation);
        if known.is_some_and(|known| known.is_thorough || !is_thorough) {
            return Ok(true);
        }
        if !self.needs_rebuild && self.has_tables()? && (!is_thorough || self.count_fixed_rules()? == self.fixed_rules)
        {
            self.verified = Some(Verified { generation, is_thorough });
            return Ok(true);
        }
        self.rebuild()?;
        Ok(false)
    }

    fn has_tables(&mut self) -> Result<bool, Error> {
        let tables = self.nft.tables()?;
        let has = |family: &Family| tables.iter().any(|table| table.family == *family && table.name == TABLE);
        Ok(self.options.families.iter().all(has))
    }

    fn count_fixed_rules(&mut self) -> Result<Vec<usize>, Error> {
        let mut counts = Vec::new();
        for family in self.options.families.clone() {
            for chain in rules::FIXED_CHAINS {
                counts.push(match self.nft.rules(family, TABLE, chain) {
                    Ok(found) => found.len(),
                    Err(error) if error.is_not_found() => 0,
                    Err(error) => return Err(error.into()),
                });
            }
        }
        Ok(counts)
    }

    /// Ends the connections that the rules no longer allow; returns how many.
    pub fn revoke(&mut self) -> Result<usize, Error> {
        if !self.is_ready() || self.layout.policed().is_empty() {
            return Ok(0);
        }
        let families = &self.options.families;
        Ok(revoke::revoke(&self.options.namespace, &mut self.conntrack, families, &self.layout, &self.selections)?)
    }

    /// The policies that apply to a pod of this node, for the curious.
    #[must_use]
    pub fn policies_of(&self, uid: &str) -> Vec<&PolicyKey> {
        let Some(pod) = self.model.pod(uid) else { return Vec::new() };
        let of = self.model.policies_of(&pod.namespace);
        of.filter(|(_, policy)| matches(&policy.pods, &pod.labels)).map(|(key, _)| key).collect()
    }
}

/// From one layout to another, in the tables of one family.
struct Difference<'a> {
    old: &'a Layout,
    new: &'a Layout,
    family: Family,
}

impl Difference<'_> {
    /// Writes the messages in an order in which nothing is used before it is there, or removed while it is used.
    fn write(&self, batch: &mut NftBatch, selections: &Selections, members: &MemberChanges, report: &mut Report) {
        let Self { old, new, family } = *self;
        self.add_sets(batch, selections, members, report);
        for name in new.chains.keys().filter(|name| !old.chains.contains_key(*name)) {
            batch.add_chain(family, TABLE, &crate::netlink::ChainSpec { name, base: None });
        }
        let (had, has) = (self.elements(old), self.elements(new));
        for (set, elements) in &had {
            let kept: HashSet<&Element> = has.get(set).into_iter().flatten().collect();
            let gone: Vec<&Element> = elements.iter().filter(|element| !kept.contains(element)).collect();
            report.deleted += gone.len();
            report.restricts |= !gone.is_empty();
            batch.delete_elements(family, TABLE, set, gone);
        }
        let gone: Vec<&String> = old.chains.keys().filter(|name| !new.chains.contains_key(*name)).collect();
        for name in &gone {
            batch.flush_chain(family, TABLE, name);
            report.restricts = true;
        }
        for (name, chain) in &new.chains {
            let before = old.chains.get(name);
            if before != Some(chain) {
                self.write_chain(batch, name, before, chain);
                report.restricts |= before.is_some();
                report.chains += 1;
            }
        }
        for (set, elements) in &has {
            let known: HashSet<&Element> = had.get(set).into_iter().flatten().collect();
            let fresh: Vec<&Element> = elements.iter().filter(|element| !known.contains(element)).collect();
            report.added += fresh.len();
            report.restricts |= !fresh.is_empty() && *set != rules::SENDERS;
            batch.add_elements(family, TABLE, set, fresh);
        }
        for name in gone {
            batch.delete_chain(family, TABLE, name);
        }
        self.delete_sets(batch);
    }

    fn add_sets(&self, batch: &mut NftBatch, selections: &Selections, members: &MemberChanges, report: &mut Report) {
        let Self { old, new, family } = *self;
        for (id, blocks) in new.blocks.iter().filter(|(id, _)| !old.blocks.contains_key(id)) {
            rules::add_blocks(batch, family, *id, blocks);
        }
        for (id, ports) in new.ports.iter().filter(|(id, _)| !old.ports.contains_key(id)) {
            rules::add_ports(batch, family, *id, ports);
        }
        let own = |all: &[Member]| -> Vec<Element> {
            all.iter().filter(|one| Family::of(one.address()) == family).map(rules::member).collect()
        };
        for (id, selection, all) in selections.sets() {
            if !new.selections.contains_key(&id) {
                continue;
            }
            let name = rules::selection_set(id, selection);
            if old.selections.contains_key(&id) {
                let of = |changes: &HashMap<u32, Vec<Member>>| changes.get(&id).map(|all| own(all)).unwrap_or_default();
                let (removed, added) = (of(&members.removed), of(&members.added));
                report.restricts |= !removed.is_empty();
                report.deleted += removed.len();
                report.added += added.len();
                batch.delete_elements(family, TABLE, &name, &removed);
                batch.add_elements(family, TABLE, &name, &added);
            } else {
                rules::add_selection(batch, family, id, selection);
                let all: Vec<Member> = all.copied().collect();
                let all = own(&all);
                report.added += all.len();
                batch.add_elements(family, TABLE, &name, &all);
            }
        }
    }

    fn delete_sets(&self, batch: &mut NftBatch) {
        let Self { old, new, family } = *self;
        let mut delete = |name: String| batch.delete_set(family, TABLE, &name);
        old.blocks.keys().filter(|id| !new.blocks.contains_key(id)).for_each(|id| delete(rules::blocks_set(*id)));
        old.ports.keys().filter(|id| !new.ports.contains_key(id)).for_each(|id| delete(rules::ports_set(*id)));
        for (id, selection) in old.selections.iter().filter(|(id, _)| !new.selections.contains_key(id)) {
            delete(rules::selection_set(*id, selection));
        }
    }

    fn write_chain(&self, batch: &mut NftBatch, name: &str, before: Option<&Chain>, chain: &Chain) {
        if before.is_some_and(|before| !before.rules.is_empty()) {
            batch.flush_chain(self.family, TABLE, name);
        }
        for rule in &chain.rules {
            batch.add_rule(self.family, TABLE, name, &rules::expressions(self.family, chain.direction, rule));
        }
    }

    /// The elements of the sets that belong to pods of this node.
    fn elements(&self, layout: &Layout) -> BTreeMap<&'static str, Vec<Element>> {
        let is_own = |address: &IpAddr| Family::of(*address) == self.family;
        let mut all: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
        for (interface, address) in layout.senders.iter().filter(|(_, address)| is_own(address)) {
            all.entry(rules::SENDERS).or_default().push(rules::sender(interface, *address));
        }
        let policed: BTreeSet<IpAddr> = layout.policed();
        for address in policed.into_iter().filter(is_own) {
            for (set, element) in rules::policed(address) {
                all.entry(set).or_default().push(element);
            }
        }
        for direction in Direction::BOTH {
            for (address, chain) in layout.isolated(direction).iter().filter(|(address, _)| is_own(address)) {
                all.entry(rules::verdict_map(direction)).or_default().push(rules::isolated(*address, chain));
            }
        }
        all
    }
}

/// Removes everything that a [`Programmer`] makes in a namespace.
pub fn purge(namespace: &NetworkNamespace) -> Result<(), Error> {
    Ok(Nft::open_in(namespace)?.delete_tables(&[TABLE])?)
}
