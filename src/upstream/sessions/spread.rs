//! How evenly the sessions are spread over the servers, and which of them have too many.

use std::sync::Arc;

use crate::upstream::balance::{Bound, thousandths};
use crate::upstream::servers::Health;
use crate::upstream::{Server, Upstream};

/// A server that has more sessions than its bound allows.
#[derive(Clone, Debug)]
pub struct Overloaded {
    /// The server.
    pub server: Arc<Server>,
    /// The sessions that it has beyond the bound.
    pub excess: u64,
}

impl Upstream {
    /// The servers that have more than `factor` times their share of the sessions, and more than two beyond it, the
    /// fullest first. `leaving` tells how many sessions of a server are as good as gone, `coming` how many are on their
    /// way to anybody.
    ///
    /// # Errors
    /// Why nothing can be said at this moment: a server is down, starting, ejected or draining, so that what others have
    /// is no measure; or there is nobody to compare with.
    pub fn overloaded(
        &self,
        factor: f64,
        leaving: impl Fn(&Server) -> u64,
        coming: u64,
    ) -> Result<Vec<Overloaded>, String> {
        let servers = self.servers();
        for server in servers.iter() {
            let why = match server.health() {
                Health::Down => "is down",
                Health::Starting => "is starting",
                Health::Up if server.ejected().is_some() => "is ejected",
                Health::Up => continue,
            };
            return Err(format!("server {} {why}", server.name()));
        }
        let mut taking: Vec<&Arc<Server>> = servers.iter().filter(|server| !server.is_draining()).collect();
        // What those have that stand by is no measure, and nobody moves there while the others are up.
        let first = taking.iter().map(|server| server.rank()).min();
        taking.retain(|server| Some(server.rank()) == first);
        if taking.len() < 2 {
            return Err("there is no other server to move to".to_owned());
        }
        let loads: Vec<Load> = taking
            .iter()
            .map(|server| Load {
                sessions: (server.sessions() as u64).saturating_sub(leaving(server)),
                share: server.share(self.config().slow_start),
            })
            .collect();
        let over = beyond(&loads, coming, thousandths(factor));
        Ok(over.into_iter().map(|(at, excess)| Overloaded { server: Arc::clone(taking[at]), excess }).collect())
    }
}

/// What a server has, and what is due to it.
#[derive(Clone, Copy, Debug)]
struct Load {
    sessions: u64,
    /// In thousandths of a unit of weight.
    share: u64,
}

/// Who has too much, and by how much; the one with the most for its share first.
fn beyond(loads: &[Load], coming: u64, factor: u64) -> Vec<(usize, u64)> {
    let (sessions, share) = loads.iter().fold((coming, 0), |sum, load| (sum.0 + load.sessions, sum.1 + load.share));
    let bound = Bound::of_sessions(sessions, share, factor);
    let mut over: Vec<(usize, u64)> = loads
        .iter()
        .enumerate()
        .filter_map(|(at, load)| {
            let excess = load.sessions.saturating_sub(bound.most(load.share));
            (excess > 0).then_some((at, excess))
        })
        .collect();
    let weighed = |at: usize, other: usize| u128::from(loads[at].sessions) * u128::from(loads[other].share);
    over.sort_by(|&(one, _), &(other, _)| weighed(other, one).cmp(&weighed(one, other)));
    over
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loads(of: &[(u64, u64)]) -> Vec<Load> {
        of.iter().map(|&(sessions, weight)| Load { sessions, share: weight * 1000 }).collect()
    }

    #[test]
    fn servers_beside_an_empty_one_have_too_many() {
        // 66.7 are due to each, and a quarter more may be there.
        let over = beyond(&loads(&[(100, 1), (98, 1), (0, 1)]), 2, 1250);
        assert_eq!(over, [(0, 16), (1, 14)]);
        assert_eq!(beyond(&loads(&[(84, 1), (84, 1), (32, 1)]), 0, 1250), []);
    }

    #[test]
    fn the_fullest_for_its_share_comes_first() {
        assert_eq!(beyond(&loads(&[(120, 2), (100, 1), (0, 4)]), 0, 1000), [(1, 66), (0, 54)]);
    }

    #[test]
    fn a_few_sessions_are_never_too_many() {
        assert_eq!(beyond(&loads(&[(2, 1), (0, 1), (0, 1)]), 0, 1000), []);
        assert_eq!(beyond(&loads(&[(5, 1), (0, 1)]), 0, 1000), []);
        assert_eq!(beyond(&loads(&[(7, 1), (0, 1)]), 0, 1000), [(0, 1)]);
    }

    proptest! {
        #[test]
        fn nobody_who_has_its_share_or_less_has_too_many(
            of in prop::collection::vec((0u64..2000, 1u64..=256), 2..9),
            coming in 0u64..500,
            factor in 1000u64..3000,
        ) {
            let (all, weights) = of.iter().fold((coming, 0), |sum, &(load, weight)| (sum.0 + load, sum.1 + weight));
            let over = beyond(&loads(&of), coming, factor);
            prop_assert!(over.len() < of.len());
            for (at, excess) in over {
                let (load, weight) = of[at];
                let due = (all * weight) as f64 / weights as f64;
                prop_assert!((load - excess) as f64 >= due * factor as f64 / 1000.0, "{load} - {excess}, {due}");
            }
        }
    }
}
