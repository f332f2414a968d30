//! Gives addresses of pools: who holds one keeps it, who waits gets the first that is free.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::pools::{DEFAULT_POOL, Pools};
use super::wish::{Wish, held};

/// Where pools stand, for sentences.
pub(super) const CONFIG: &str = "the ConfigMap kube-system/klynge-load-balancer";

/// Who has which address.
#[derive(Default)]
struct Claims<'a> {
    holders: BTreeMap<IpAddr, Vec<&'a Wish<'a>>>,
}

impl<'a> Claims<'a> {
    fn admit(&self, address: IpAddr, wish: &Wish<'_>) -> Result<(), String> {
        let others = self.holders.get(&address).into_iter().flatten().filter(|other| other.key != wish.key);
        for other in others {
            wish.shares(other).map_err(|why| format!("{address} {why}"))?;
        }
        Ok(())
    }

    fn take(&mut self, address: IpAddr, wish: &'a Wish<'a>) {
        self.holders.entry(address).or_default().push(wish);
    }
}

/// What each Service gets, in the order of `wishes`, or a sentence that says why it waits. `unusable` are addresses that hosts have or that
/// no host can have.
pub(super) fn assign(
    wishes: &[&Wish<'_>],
    pools: &Pools,
    unusable: &BTreeSet<IpAddr>,
) -> Vec<Result<Vec<IpAddr>, String>> {
    let mut order: Vec<usize> = (0..wishes.len()).collect();
    order.sort_by_key(|index| wishes[*index].age());
    let mut claims = Claims::default();
    let mut kept: Vec<Vec<IpAddr>> = vec![Vec::new(); wishes.len()];
    for index in &order {
        let wish = wishes[*index];
        for address in held(wish.service) {
            let is_second = kept[*index].iter().any(|one: &IpAddr| one.is_ipv4() == address.is_ipv4());
            if !is_second && may_keep(address, wish, pools, unusable) && claims.admit(address, wish).is_ok() {
                claims.take(address, wish);
                kept[*index].push(address);
            }
        }
    }
    let mut outcome: Vec<Result<Vec<IpAddr>, String>> = vec![Ok(Vec::new()); wishes.len()];
    for index in order {
        outcome[index] = complete(wishes[index], std::mem::take(&mut kept[index]), pools, unusable, &mut claims);
    }
    outcome
}

/// The pool that the Service takes from; none where it names addresses, of whichever pool.
fn pool_of<'a>(wish: &Wish<'a>) -> Option<&'a str> {
    match (&wish.addresses, wish.pool) {
        (_, Some(pool)) => Some(pool),
        (Ok(addresses), None) if !addresses.is_empty() => None,
        _ => Some(DEFAULT_POOL),
    }
}

fn may_keep(address: IpAddr, wish: &Wish<'_>, pools: &Pools, unusable: &BTreeSet<IpAddr>) -> bool {
    let Some(pool) = pools.of(address) else { return false };
    let is_wanted = match &wish.addresses {
        // With a wish that cannot be read it keeps what it has.
        Err(_) => true,
        Ok(wanted) => wanted.iter().all(|one| one.is_ipv4() != address.is_ipv4() || *one == address),
    };
    is_wanted
        && !unusable.contains(&address)
        && wish.families.contains(&address.is_ipv6())
        && (wish.addresses.is_err() || pool_of(wish).is_none_or(|wanted| wanted == pool))
}

fn complete<'a>(
    wish: &'a Wish<'a>,
    mut has: Vec<IpAddr>,
    pools: &Pools,
    unusable: &BTreeSet<IpAddr>,
    claims: &mut Claims<'a>,
) -> Result<Vec<IpAddr>, String> {
    let wanted = match &wish.addresses {
        Ok(wanted) => wanted,
        Err(why) if has.is_empty() => return Err(why.clone()),
        Err(_) => return Ok(has),
    };
    if let Some(pool) = wish.pool.filter(|pool| !pools.has(pool)) {
        return Err(format!("there is no pool {pool:?}: {CONFIG} has {}", list(pools)));
    }
    let mut missing = None;
    for v6 in &wish.families {
        if has.iter().any(|address| address.is_ipv6() == *v6) {
            continue;
        }
        let named = wanted.iter().find(|address| address.is_ipv6() == *v6);
        let found = match named {
            Some(address) => grant(*address, wish, pools, unusable, claims),
            None => free(*v6, wish, pools, unusable, claims),
        };
        match found {
            Ok(address) => has.push(address),
            // An address that is asked for by name is not replaced by another family's.
            Err(why) if named.is_some() => return Err(why),
            Err(why) => missing = missing.or(Some(why)),
        }
    }
    match missing {
        Some(why) if wish.all_families || has.is_empty() => Err(why),
        _ => {
            for address in &has {
                claims.take(*address, wish);
            }
            // In the order of the Service's families, so that the first one is shown first.
            has.sort_by_key(|address| wish.families.iter().position(|v6| *v6 == address.is_ipv6()));
            Ok(has)
        }
    }
}

fn grant(
    address: IpAddr,
    wish: &Wish<'_>,
    pools: &Pools,
    unusable: &BTreeSet<IpAddr>,
    claims: &Claims<'_>,
) -> Result<IpAddr, String> {
    let Some(pool) = pools.of(address) else {
        return Err(format!("{address} is wanted, but is of no pool of {CONFIG}"));
    };
    if let Some(wanted) = wish.pool.filter(|wanted| *wanted != pool) {
        return Err(format!("{address} is wanted, but is of pool {pool:?}, not {wanted:?}"));
    }
    if unusable.contains(&address) {
        return Err(format!("{address} is wanted, but is a node's, or the first or last of a node's subnet"));
    }
    claims.admit(address, wish).map(|()| address)
}

fn free(
    v6: bool,
    wish: &Wish<'_>,
    pools: &Pools,
    unusable: &BTreeSet<IpAddr>,
    claims: &Claims<'_>,
) -> Result<IpAddr, String> {
    let pool = wish.pool.unwrap_or(DEFAULT_POOL);
    let family = if v6 { "IPv6" } else { "IPv4" };
    if pools.is_empty() {
        return Err(
            "there are no address pools; for one: kubectl -n kube-system create configmap klynge-load-balancer \
                    --from-literal=default=FIRST-LAST, of addresses that nobody has"
                .into(),
        );
    }
    if !pools.has(pool) {
        return Err(format!(
            "{CONFIG} has no pool {DEFAULT_POOL:?}: ask for one of its pools ({}) by the annotation klynge.io/load-balancer-pool",
            list(pools)
        ));
    }
    if !pools.has_family(pool, v6) {
        return Err(format!("pool {pool:?} has no {family} addresses: add a range to {CONFIG}"));
    }
    // One that nobody has before one that could be shared: sharing is asked for by address.
    let found = pools.first(pool, v6, |address| !unusable.contains(&address) && !claims.holders.contains_key(&address));
    found.ok_or_else(|| {
        format!(
            "pool {pool:?} has no free {family} address: widen it in {CONFIG}, or delete a Service of type LoadBalancer that nobody needs"
        )
    })
}

fn list(pools: &Pools) -> String {
    if pools.is_empty() { "none".into() } else { pools.names() }
}
