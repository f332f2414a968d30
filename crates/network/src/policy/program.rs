//! Brings the kernel from the rules programmed to the rules wanted, in one transaction per change.

use std::collections::HashSet;
use std::sync::Arc;

use super::compiler::Compiler;
use super::difference::Difference;
use super::error::Error;
use super::revoke;
use super::rules::{self, TABLE};
use super::selections::matches;
use super::state::{Labels, LocalPod, PodState, Policy, PolicyKey};
use crate::netlink::{Conntrack, Family, NetworkNamespace, Nft, NftBatch};

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
    compiler: Compiler,
    is_known: bool,
    has_recovered: bool,
    needs_rebuild: bool,
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
        let mut compiler = Compiler::default();
        for (uid, state) in &options.stand_ins {
            compiler.set_pod(uid, Some(Arc::new(state.clone())));
        }
        Ok(Self {
            options,
            nft,
            conntrack,
            compiler,
            is_known: false,
            has_recovered: false,
            needs_rebuild: true,
            verified: None,
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
        let compiler = &mut self.compiler;
        match change {
            Change::Policy(key, policy) => compiler.set_policy(key, policy),
            Change::Policies(all) => compiler.set_policies(all),
            Change::Namespace(name, labels) => compiler.set_namespace(name, labels),
            Change::Namespaces(all) => compiler.set_namespaces(all),
            Change::Pod(uid, state) => compiler.set_pod(&uid, state),
            Change::Pods(all) => {
                let mut kept: HashSet<&String> = all.iter().map(|(uid, _)| uid).collect();
                kept.extend(self.options.stand_ins.iter().map(|(uid, _)| uid));
                let gone: Vec<String> = compiler.model().told().filter(|uid| !kept.contains(uid)).cloned().collect();
                gone.iter().for_each(|uid| compiler.set_pod(uid, None));
                all.into_iter().for_each(|(uid, state)| compiler.set_pod(&uid, Some(state)));
            }
            Change::Attached(pod) => compiler.set_local(&pod.uid.clone(), Some(pod)),
            Change::Detached(uid) => compiler.set_local(&uid, None),
            Change::Recovered(all) => {
                let kept: HashSet<&String> = all.iter().map(|pod| &pod.uid).collect();
                let local = compiler.model().local.keys();
                let gone: Vec<String> = local.filter(|uid| !kept.contains(uid)).cloned().collect();
                gone.iter().for_each(|uid| compiler.set_local(uid, None));
                all.into_iter().for_each(|pod| compiler.set_local(&pod.uid.clone(), Some(pod)));
                self.has_recovered = true;
            }
            Change::Known => self.is_known = true,
        }
    }

    /// Makes the tables anew from what is known, atomically: no packet sees an intermediate state, and leftovers vanish.
    pub fn rebuild(&mut self) -> Result<Report, Error> {
        self.needs_rebuild = true;
        self.compiler.start_over();
        let mut batch = NftBatch::new();
        let mut report = Report { rebuilt: true, restricts: true, ..Report::default() };
        for family in self.options.families.clone() {
            rules::add_base(&mut batch, family);
        }
        self.write(batch, &mut report)?;
        self.fixed_rules = self.count_fixed_rules()?;
        self.needs_rebuild = false;
        Ok(report)
    }

    fn commit(&mut self) -> Result<Report, Error> {
        // Until the kernel has taken it over, what it holds is not what the compiler compares with.
        self.needs_rebuild = true;
        self.compiler.follow();
        let mut report = Report::default();
        self.write(NftBatch::new(), &mut report)?;
        self.needs_rebuild = false;
        Ok(report)
    }

    fn write(&mut self, mut batch: NftBatch, report: &mut Report) -> Result<(), Error> {
        let members = self.compiler.selections().changes();
        for family in &self.options.families {
            let (layout, selections) = (self.compiler.layout(), self.compiler.selections());
            Difference { layout, selections, members: &members, family: *family }.write(&mut batch, report);
        }
        batch.commit(self.nft.socket())?;
        self.compiler.settle();
        Ok(())
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
        if !self.is_ready() || self.compiler.layout().policed.is_empty() {
            return Ok(0);
        }
        let Self { options: Options { namespace, families, .. }, conntrack, compiler, .. } = self;
        Ok(revoke::revoke(namespace, conntrack, families, compiler.layout(), compiler.selections())?)
    }

    /// The policies that apply to a pod of this node, for the curious.
    #[must_use]
    pub fn policies_of(&self, uid: &str) -> Vec<&PolicyKey> {
        let model = self.compiler.model();
        let Some(pod) = model.pod(uid) else { return Vec::new() };
        let of = model.policies_of(&pod.namespace);
        of.filter(|(_, policy)| matches(&policy.pods, &pod.labels)).map(|(key, _)| key).collect()
    }
}

/// Removes everything that a [`Programmer`] makes in a namespace.
pub fn purge(namespace: &NetworkNamespace) -> Result<(), Error> {
    Ok(Nft::open_in(namespace)?.delete_tables(&[TABLE])?)
}
