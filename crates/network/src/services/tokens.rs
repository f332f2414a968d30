//! Numbers for the endpoints of a port whose clients are remembered: an endpoint keeps its token while it is there, whatever place in the
//! list it has, and a token is not given again soon, so that the clients of an endpoint that went are not all led to the same next one.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

type Endpoint = (IpAddr, u16);

/// The tokens of a port's endpoints.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens {
    of: HashMap<Endpoint, u32>,
}

impl Tokens {
    /// Tokens for `endpoints`, from 1 on; those that had one keep it. `last` is the token given last, of all ports.
    pub(crate) fn renewed<'a>(
        old: Option<&Self>,
        endpoints: impl Iterator<Item = &'a Endpoint>,
        last: &mut u32,
    ) -> Self {
        let wanted: HashSet<Endpoint> = endpoints.copied().collect();
        let mut of: HashMap<Endpoint, u32> = old
            .iter()
            .flat_map(|old| old.iter())
            .filter(|(endpoint, _)| wanted.contains(endpoint))
            .map(|(endpoint, token)| (*endpoint, token))
            .collect();
        let mut used: HashSet<u32> = of.values().copied().collect();
        for endpoint in wanted {
            of.entry(endpoint).or_insert_with(|| {
                // Ends: a port has 130,000 endpoints at most, and there are four thousand million tokens.
                loop {
                    *last = last.wrapping_add(1).max(1);
                    if used.insert(*last) {
                        return *last;
                    }
                }
            });
        }
        Self { of }
    }

    /// The token of an endpoint.
    pub(crate) fn of(&self, endpoint: &Endpoint) -> Option<u32> {
        self.of.get(endpoint).copied()
    }

    /// All endpoints with their tokens.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Endpoint, u32)> {
        self.of.iter().map(|(endpoint, token)| (endpoint, *token))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn endpoint(number: u8) -> Endpoint {
        (IpAddr::from([10, 0, 0, number]), 80)
    }

    #[test]
    fn who_stays_keeps_its_token_and_who_comes_gets_a_fresh_one() {
        let mut last = u32::MAX - 1;
        let first = Tokens::renewed(None, [endpoint(1), endpoint(2), endpoint(2)].iter(), &mut last);
        let mut given: Vec<u32> = first.iter().map(|(_, token)| token).collect();
        given.sort_unstable();
        assert_eq!(given, [1, u32::MAX], "numbers begin again behind the largest");
        let kept = first.of(&endpoint(2)).unwrap();
        let second = Tokens::renewed(Some(&first), [endpoint(2), endpoint(3)].iter(), &mut last);
        assert_eq!(second.of(&endpoint(2)), Some(kept));
        assert_eq!(second.of(&endpoint(3)), Some(2));
        assert_eq!(second.of(&endpoint(1)), None);
        last = kept.wrapping_sub(1);
        let third = Tokens::renewed(Some(&second), [endpoint(2), endpoint(4)].iter(), &mut last);
        assert_ne!(third.of(&endpoint(4)), Some(kept), "a token in use is not given twice");
    }
}
