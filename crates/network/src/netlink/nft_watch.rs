//! Notices when others remove or change tables of ours: `nft flush ruleset` is what reloading nftables.service begins with.
//!
//! The kernel counts the commits of a network namespace. As long as that number stays nothing can have changed, and a look costs one question;
//! otherwise the tables' handles and the rules of some chains are compared with those that were learnt. Elements of sets are not looked at: an
//! element that others deleted makes the next change that touches it fail, which rebuilds everything.

use super::error::Result;
use super::nft_constants::Family;
use super::nft_query::Nft;

/// A table and the chains of it whose rules are watched.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) family: Family,
    pub(crate) table: &'static str,
    pub(crate) chains: &'static [&'static str],
}

/// What tables were like when they were made.
#[derive(Debug, Default)]
pub(crate) struct TableWatch {
    watched: Vec<Watched>,
    handles: Vec<Vec<u64>>,
    generation: Option<u32>,
}

impl TableWatch {
    /// Learns what the tables are like now. A change by others between making and learning them is taken for ours.
    pub(crate) fn learn(nft: &mut Nft, watched: Vec<Watched>) -> Result<Self> {
        let generation = nft.generation()?;
        let handles = watched.iter().map(|one| handles(nft, one)).collect::<Result<_>>()?;
        Ok(Self { watched, handles, generation: Some(generation) })
    }

    /// Whether there is anything to compare with.
    pub(crate) const fn is_learnt(&self) -> bool {
        self.generation.is_some()
    }

    /// Whether the tables are still those that were learnt.
    pub(crate) fn is_intact(&mut self, nft: &mut Nft) -> Result<bool> {
        let generation = nft.generation()?;
        if self.generation == Some(generation) {
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
    let Watched { family, table, chains } = watched;
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
