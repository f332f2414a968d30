//! Notices when others remove or change tables of ours: `nft flush ruleset` is what reloading nftables.service begins with.
//!
//! The kernel counts the commits of a network namespace. As long as that number stays nothing can have changed, and a look costs one question;
//! otherwise the tables' handles and the rules of some chains are compared with those that were learnt. Elements of sets are not looked at: an
//! element that others deleted makes the next change that touches it fail, which rebuilds everything.

use super::error::Result;
use super::nft_constants::Family;
use super::nft_message::NftBatch;
use super::nft_query::Nft;

/// A table and the chains of it whose rules are watched.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) family: Family,
    pub(crate) table: &'static str,
    pub(crate) chains: &'static [&'static str],
    /// How many rules these chains have together.
    pub(crate) rules: usize,
}

impl Watched {
    /// A table as a batch makes it.
    pub(crate) fn made_by(
        batch: &NftBatch,
        family: Family,
        table: &'static str,
        chains: &'static [&'static str],
    ) -> Self {
        let rules = chains.iter().map(|chain| batch.rule_count(family, table, chain)).sum();
        Self { family, table, chains, rules }
    }
}

/// What tables were like when they were made.
#[derive(Debug, Default)]
pub(crate) struct TableWatch {
    watched: Vec<Watched>,
    handles: Vec<Vec<u64>>,
    generation: Option<u32>,
}

impl TableWatch {
    /// Learns what the tables are like now. Tables that others damaged since they were made are not learnt, and so are not intact.
    pub(crate) fn learn(nft: &mut Nft, watched: Vec<Watched>) -> Result<Self> {
        let generation = nft.generation()?;
        let handles = watched.iter().map(|one| handles(nft, one)).collect::<Result<Vec<_>>>()?;
        let is_whole = watched.iter().zip(&handles).all(|(watched, handles)| handles.len() == 1 + watched.rules);
        Ok(Self { watched, handles, generation: is_whole.then_some(generation) })
    }

    /// Whether the tables are still those that were learnt.
    pub(crate) fn is_intact(&mut self, nft: &mut Nft) -> Result<bool> {
        let Some(known) = self.generation else { return Ok(false) };
        let generation = nft.generation()?;
        if known == generation {
            return Ok(true);
        }
        for (watched, known) in self.watched.iter().zip(&self.handles) {
            if handles(nft, watched)? != *known {
                return Ok(false);
            }
        }
        self.generation = Some(generation);
        Ok(true)
    }
}

/// The handles of a table and of its rules; empty without the table.
fn handles(nft: &mut Nft, watched: &Watched) -> Result<Vec<u64>> {
    let Watched { family, table, chains, .. } = watched;
    let Some(found) = nft.tables()?.into_iter().find(|one| one.family == *family && one.name == *table) else {
        return Ok(Vec::new());
    };
    let mut all = vec![found.handle];
    for chain in *chains {
        match nft.rules(*family, table, chain) {
            Ok(rules) => all.extend(rules.iter().map(|rule| rule.handle)),
            // The chain is gone, or went with the table meanwhile: the list is shorter, and so differs.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::super::{ChainSpec, Expressions, NetworkNamespace, Verdict};
    use super::*;

    #[test]
    fn what_others_damage_is_seen_also_before_it_was_learnt() {
        let mut nft = Nft::open_in(&NetworkNamespace::create().unwrap()).unwrap();
        let rule = || Expressions::new().verdict(Verdict::Return);
        let make = |nft: &mut Nft| {
            let mut batch = NftBatch::new();
            batch.delete_table_if_exists(Family::Ip, "t");
            batch.add_table(Family::Ip, "t");
            for chain in ["a", "b"] {
                batch.add_chain(Family::Ip, "t", &ChainSpec { name: chain, base: None });
                batch.add_rule(Family::Ip, "t", chain, &rule());
            }
            let watched = vec![Watched::made_by(&batch, Family::Ip, "t", &["a"])];
            batch.commit(nft.socket()).unwrap();
            watched
        };
        let commit = |nft: &mut Nft, change: &dyn Fn(&mut NftBatch)| {
            let mut batch = NftBatch::new();
            change(&mut batch);
            batch.commit(nft.socket()).unwrap();
        };
        let damages: [&dyn Fn(&mut NftBatch); 3] = [
            &|batch| batch.delete_table(Family::Ip, "t"),
            &|batch| batch.flush_chain(Family::Ip, "t", "a"),
            &|batch| batch.add_rule(Family::Ip, "t", "a", &Expressions::new().verdict(Verdict::Return)),
        ];
        for damage in damages {
            let watched = make(&mut nft);
            let mut watch = TableWatch::learn(&mut nft, watched).unwrap();
            assert!(watch.is_intact(&mut nft).unwrap());
            commit(&mut nft, &|batch| batch.flush_chain(Family::Ip, "t", "b"));
            assert!(watch.is_intact(&mut nft).unwrap(), "chains that are not watched change as they like");
            commit(&mut nft, damage);
            assert!(!watch.is_intact(&mut nft).unwrap());
            let watched = make(&mut nft);
            commit(&mut nft, damage);
            let mut late = TableWatch::learn(&mut nft, watched).unwrap();
            assert!(!late.is_intact(&mut nft).unwrap());
        }
        assert!(!TableWatch::default().is_intact(&mut nft).unwrap());
    }
}
