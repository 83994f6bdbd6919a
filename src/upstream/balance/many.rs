//! Round robin and least connections among many servers: nobody looks at a thousand of them for one request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{Balance, Candidates, compare};
use crate::upstream::PickKey;
use crate::upstream::servers::Server;

/// From how many servers on a balance looks at a few of them instead of all.
pub(crate) const MANY: usize = 64;
/// Turns that are tried before every server is looked at.
const TRIES: usize = 32;
/// Most turns in a round; beyond it weights are rounded.
const MOST_TURNS: u64 = 1 << 16;

/// Whose turn it is, worked out once for a whole round: as often as the weight says, and evenly mixed.
///
/// The turn of a server that is not open, or not warm, goes to one drawn from the whole round, so that its share is
/// spread over all others and not given to its neighbour.
pub(crate) struct LongRound {
    turns: Box<[u16]>,
    next: AtomicUsize,
}

impl LongRound {
    pub(crate) fn build(servers: &[Arc<Server>]) -> Self {
        let weights: Vec<u64> = servers.iter().map(|server| u64::from(server.weight())).collect();
        Self { turns: round(&weights), next: AtomicUsize::new(0) }
    }
}

/// The positions of servers of these weights in the order of their turns.
fn round(weights: &[u64]) -> Box<[u16]> {
    let common = weights.iter().copied().fold(0, common_divisor).max(1);
    let total: u64 = weights.iter().sum::<u64>() / common;
    let turns_of = |weight: u64| {
        let turns = weight / common;
        if total > MOST_TURNS { (turns * MOST_TURNS / total).max(1) } else { turns }
    };
    let mut turns = Vec::new();
    for (position, &weight) in (0..=u16::MAX).zip(weights) {
        let count = turns_of(weight);
        // The middles of `count` equal parts of the round.
        turns.extend((0..count).map(|turn| (((2 * turn + 1) << 32) / (2 * count), position)));
    }
    turns.sort_unstable();
    turns.into_iter().map(|(_, position)| position).collect()
}

fn common_divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { common_divisor(other, one % other) }
}

impl Balance for LongRound {
    fn choose(&self, _: &PickKey, candidates: &Candidates<'_>) -> Option<usize> {
        let turn = self.next.fetch_add(1, Relaxed);
        let at = |turn: usize| usize::from(self.turns[turn % self.turns.len()]);
        let lot = |attempt: usize| scatter((turn << 8) + attempt);
        let mut position = at(turn);
        for attempt in 1..=TRIES {
            let warm = || (scatter(lot(attempt)) % 1000) as u64;
            if candidates.is_open(position) && candidates.is_warm(position, warm) {
                return Some(position);
            }
            position = at(lot(attempt));
        }
        // Nearly all are closed, or cold.
        let from = scatter(turn) % self.turns.len();
        let (before, after) = self.turns.split_at(from);
        after.iter().chain(before).map(|&position| usize::from(position)).find(|&position| candidates.is_open(position))
    }
}

/// A number that looks unlike its neighbours' (the finaliser of SplitMix64).
fn scatter(number: usize) -> usize {
    let mut bits = (number as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    // Where a word has 32 bits, half of them are enough.
    (bits ^ (bits >> 31)) as usize
}

/// The least loaded in one look at each; among equals, the first behind a place that moves on with every choice.
pub(crate) fn least_loaded(candidates: &Candidates<'_>, turn: usize) -> Option<usize> {
    let count = candidates.servers().len();
    let from = scatter(turn) % count.max(1);
    let around = (from..count).chain(0..from).filter(|&position| candidates.is_open(position));
    around.reduce(|best, other| if compare(candidates, other, best).is_lt() { other } else { best })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::upstream::Tried;
    use crate::upstream::servers::Health;
    use crate::upstream::testing::{at_once, client, upstream};
    use crate::upstream::{Lease, Upstream};

    #[test]
    fn a_round_has_every_server_by_its_weight_and_mixes_them() {
        assert_eq!(*round(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(*round(&[4, 2, 2]), [0, 1, 2, 0]);
        assert_eq!(*round(&[256, 256]), [0, 1], "what all have in common is one turn");
        let long: Vec<u64> = (0..1000).map(|number| number % 256 + 1).collect();
        let turns = round(&long);
        assert!(turns.len() <= MOST_TURNS as usize + long.len());
        assert!((0..1000).all(|position| turns.contains(&position)), "rounding leaves nobody out");
    }

    fn pool(balance: &str, count: usize) -> Arc<Upstream> {
        let address = |number: usize| json!({ "address": format!("10.0.{}.{}:80", number / 250, number % 250) });
        let servers: Vec<Value> = (0..count).map(address).collect();
        upstream(json!({ "balance": balance, "servers": servers }))
    }

    fn pick(upstream: &Arc<Upstream>) -> Lease {
        at_once(upstream.pick(&client(1), &mut Tried::default())).unwrap()
    }

    #[test]
    fn everybody_has_a_turn_and_the_turns_of_the_missing_are_spread() {
        const COUNT: usize = 100;
        let upstream = pool("round_robin", COUNT);
        for _ in 0..3 * COUNT {
            drop(pick(&upstream));
        }
        assert!(upstream.servers().iter().all(|server| server.total() == 3));
        for server in &upstream.servers()[..COUNT / 2] {
            server.set_health(Health::Down);
        }
        for _ in 0..100 * COUNT {
            drop(pick(&upstream));
        }
        for server in upstream.servers().iter() {
            let more = server.total() - 3;
            let share = if server.health() == Health::Down { 0..1 } else { 150..250 };
            assert!(share.contains(&more), "{}: {more}", server.name());
        }
        for server in &upstream.servers()[..COUNT - 1] {
            server.set_health(Health::Down);
        }
        assert!((0..50).all(|_| pick(&upstream).server().health() == Health::Up), "the last one is found");
    }

    #[test]
    fn least_connections_fill_all_alike_and_equals_take_turns() {
        const COUNT: usize = 100;
        let upstream = pool("least_connections", COUNT);
        let held: Vec<Lease> = (0..5 * COUNT).map(|_| pick(&upstream)).collect();
        assert!(upstream.servers().iter().all(|server| server.in_flight() == 5));
        drop(held);
        for _ in 0..100 * COUNT {
            drop(pick(&upstream));
        }
        let range = upstream
            .servers()
            .iter()
            .fold((u64::MAX, 0), |(least, most), server| (least.min(server.total()), most.max(server.total())));
        assert!(range.0 > 60 && range.1 < 150, "idle servers take turns: {range:?}");
    }
}
