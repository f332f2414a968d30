//! Writes what changed in the layout since the last commit as messages for the tables of one family.

use std::collections::HashSet;
use std::net::IpAddr;

use super::layout::{ChainName, ChainRule, Direction, Layout};
use super::program::Report;
use super::rules::{self, TABLE};
use super::selections::{Member, MemberChanges, Selections};
use crate::netlink::{ChainSpec, Element, Family, NftBatch};

/// What changed; see the module.
pub(crate) struct Difference<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) selections: &'a Selections,
    pub(crate) members: &'a MemberChanges,
    pub(crate) family: Family,
}

/// Elements of the sets that belong to pods of this node, each with its set.
type Elements = Vec<(&'static str, Element)>;

impl Difference<'_> {
    /// Writes the messages in an order in which nothing is used before it is there, or removed while it is used.
    pub(crate) fn write(&self, batch: &mut NftBatch, report: &mut Report) {
        let Self { layout, family, .. } = *self;
        self.add_sets(batch, report);
        for (name, _) in layout.chains.added() {
            batch.add_chain(family, TABLE, &ChainSpec { name: &name.to_string(), base: None });
        }
        let (gone, fresh) = self.elements();
        report.deleted += gone.len();
        for set in rules::SETS_OF_PODS {
            batch.delete_elements(family, TABLE, set, of_set(&gone, set));
        }
        for (name, _) in layout.chains.removed() {
            batch.flush_chain(family, TABLE, &name.to_string());
        }
        for change in layout.chains.changes() {
            if let Some(chain) = change.after {
                self.write_chain(batch, *change.key, change.before, chain, report);
            }
        }
        report.added += fresh.len();
        // A pod that is isolated from now on, or by other policies: also one that has the address that another had.
        report.restricts |=
            [&layout.ingress, &layout.egress].iter().any(|all| all.changes().any(|one| one.after.is_some()));
        for set in rules::SETS_OF_PODS {
            batch.add_elements(family, TABLE, set, of_set(&fresh, set));
        }
        for (name, _) in layout.chains.removed() {
            batch.delete_chain(family, TABLE, &name.to_string());
        }
        self.delete_sets(batch);
    }

    fn add_sets(&self, batch: &mut NftBatch, report: &mut Report) {
        let Self { layout, selections, members, family } = *self;
        for (id, blocks) in layout.blocks.added() {
            rules::add_blocks(batch, family, *id, blocks);
        }
        for (id, ports) in layout.ports.added() {
            rules::add_ports(batch, family, *id, ports);
        }
        let own = |all: &mut dyn Iterator<Item = &Member>| -> Vec<Element> {
            all.filter(|one| Family::of(one.address()) == family).map(rules::member).collect()
        };
        let mut new = HashSet::new();
        for (id, selection) in layout.selections.added() {
            new.insert(*id);
            rules::add_selection(batch, family, *id, selection);
            let all = own(&mut selections.members(*id));
            report.added += all.len();
            batch.add_elements(family, TABLE, &rules::selection_set(*id, selection), &all);
        }
        let known = |id: &u32| layout.selections.get(id).filter(|_| !new.contains(id));
        for (id, removed) in &members.removed {
            let Some(selection) = known(id) else { continue };
            let removed = own(&mut removed.iter());
            report.restricts |= !removed.is_empty();
            report.deleted += removed.len();
            batch.delete_elements(family, TABLE, &rules::selection_set(*id, selection), &removed);
        }
        for (id, added) in &members.added {
            let Some(selection) = known(id) else { continue };
            let added = own(&mut added.iter());
            report.added += added.len();
            batch.add_elements(family, TABLE, &rules::selection_set(*id, selection), &added);
        }
    }

    fn delete_sets(&self, batch: &mut NftBatch) {
        let Self { layout, family, .. } = *self;
        let mut delete = |name: String| batch.delete_set(family, TABLE, &name);
        layout.blocks.removed().for_each(|(id, _)| delete(rules::blocks_set(*id)));
        layout.ports.removed().for_each(|(id, _)| delete(rules::ports_set(*id)));
        layout.selections.removed().for_each(|(id, selection)| delete(rules::selection_set(*id, selection)));
    }

    fn write_chain(
        &self,
        batch: &mut NftBatch,
        name: ChainName,
        before: Option<&Vec<ChainRule>>,
        after: &[ChainRule],
        report: &mut Report,
    ) {
        let text = name.to_string();
        if let Some(before) = before.filter(|before| !before.is_empty()) {
            batch.flush_chain(self.family, TABLE, &text);
            // A set never changes what it stands for, so rules that are merely more take nothing away.
            let kept: HashSet<&ChainRule> = after.iter().collect();
            report.restricts |= before.iter().any(|rule| !kept.contains(rule));
        }
        for rule in after {
            batch.add_rule(self.family, TABLE, &text, &rules::expressions(self.family, name.direction(), rule));
        }
        report.chains += 1;
    }

    /// What goes from the sets that belong to pods of this node, and what comes.
    fn elements(&self) -> (Elements, Elements) {
        let Self { layout, family, .. } = *self;
        let is_own = |address: &IpAddr| Family::of(*address) == family;
        let (mut gone, mut fresh) = (Vec::new(), Vec::new());
        for change in layout.senders.changes().filter(|change| is_own(&change.key.1)) {
            let into = if change.after.is_some() { &mut fresh } else { &mut gone };
            into.push((rules::SENDERS, rules::sender(&change.key.0, change.key.1)));
        }
        for change in layout.policed.changes().filter(|change| is_own(change.key)) {
            let into = if change.after.is_some() { &mut fresh } else { &mut gone };
            into.extend(rules::policed(*change.key));
        }
        for direction in Direction::BOTH {
            for change in layout.isolated(direction).changes().filter(|change| is_own(change.key)) {
                let element = |group: &u32| (rules::isolation_map(direction), rules::isolated(*change.key, *group));
                gone.extend(change.before.map(element));
                fresh.extend(change.after.map(element));
            }
        }
        let group = |name: &ChainName| match name {
            ChainName::Group(direction, id) => Some((rules::chain_map(*direction), rules::group(*direction, *id))),
            ChainName::Policy(..) => None,
        };
        gone.extend(layout.chains.removed().filter_map(|(name, _)| group(name)));
        fresh.extend(layout.chains.added().filter_map(|(name, _)| group(name)));
        (gone, fresh)
    }
}

fn of_set<'a>(elements: &'a Elements, set: &'static str) -> impl Iterator<Item = &'a Element> {
    elements.iter().filter(move |(of, _)| *of == set).map(|(_, element)| element)
}
