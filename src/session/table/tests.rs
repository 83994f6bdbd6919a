use std::collections::{HashMap, HashSet};
use std::thread;

use proptest::prelude::*;

use super::*;

const LIFE: Duration = Duration::from_secs(55);

/// A table and a clock of its own.
struct Bench {
    table: Arc<SessionTable>,
    seconds: u64,
}

impl Bench {
    fn new(max: usize) -> Self {
        Self { table: SessionTable::new(max), seconds: 0 }
    }

    /// Lets time pass, with as many sweeps as the task would make.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.seconds += 1;
            for _ in 0..4 {
                self.table.sweep(self.table.clock.start() + Duration::from_secs(self.seconds));
            }
        }
    }

    fn learn(&self, sid: &str, server: u64) -> Learned {
        self.table.learn(self.table.key(sid), &self.table.home(server), LIFE, How::Handshake)
    }

    fn find(&self, sid: &str) -> Option<u64> {
        self.table.find(self.table.key(sid)).map(|found| found.server)
    }

    /// Whether it takes a place.
    fn has(&self, sid: &str) -> bool {
        let key = self.table.key(sid);
        self.table.shard(key).sessions.contains_key(&key)
    }

    fn hold(&self, sid: &str) -> Option<Held> {
        self.table.hold(self.table.key(sid))
    }

    fn forget(&self, sid: &str) -> bool {
        self.table.forget(self.table.key(sid), Cause::Unknown)
    }

    /// The sessions that live on a server, counted one by one.
    fn alive_on(&self, server: u64) -> usize {
        let now = self.table.clock.now();
        let there = |entry: &&Entry| entry.home.server() == server && entry.is_live(now);
        self.table.shards.iter().map(|shard| shard.lock().sessions.values().filter(there).count()).sum()
    }

    fn ended(&self) -> u64 {
        let totals = self.table.totals();
        Cause::ALL.iter().map(|&cause| totals.ended(cause)).sum()
    }
}

#[test]
fn a_session_is_found_where_it_was_learned() {
    let bench = Bench::new(10);
    assert_eq!((bench.learn("a", 1), bench.learn("b", 2)), (Learned::New, Learned::New));
    assert_eq!((bench.find("a"), bench.find("b"), bench.find("c")), (Some(1), Some(2), None));
    assert_eq!((bench.table.sessions_on(1), bench.table.sessions_on(2), bench.table.sessions_on(3)), (1, 1, 0));
    let totals = bench.table.totals();
    assert_eq!((totals.learned, totals.found, totals.unknown), (2, 2, 1));
}

#[test]
fn silence_ends_a_session_and_every_request_puts_that_off() {
    let mut bench = Bench::new(10);
    bench.learn("quiet", 1);
    bench.learn("busy", 1);
    for _ in 0..10 {
        bench.pass(54);
        assert_eq!(bench.find("busy"), Some(1));
    }
    assert_eq!((bench.table.len(), bench.table.sessions_on(1)), (1, 1));
    bench.pass(LIFE.as_secs() + 1);
    assert_eq!(bench.find("busy"), Some(1), "the clock may lag, the session may not");
    bench.pass(LIFE.as_secs() + 2);
    assert_eq!(bench.find("busy"), None, "known to be over before a sweep comes by");
    bench.pass(4);
    assert!(bench.table.is_empty());
    assert_eq!(bench.table.totals().ended(Cause::Silent), 2);
}

#[test]
fn a_session_whose_client_has_lost_its_connections_is_there_but_in_nobodys_way() {
    let bench = Bench::new(10);
    bench.learn("a", 1);
    bench.learn("b", 1);
    let counts = || (bench.table.home(1).live(), bench.table.home(1).present());
    let lose = |sid| bench.table.lose(bench.table.key(sid));
    for _ in 0..2 {
        lose("a");
        assert_eq!(counts(), (2, 1));
    }
    assert_eq!((bench.find("a"), counts()), (Some(1), (2, 2)), "its client is heard of again");
    lose("a");
    let held = bench.hold("a").unwrap();
    lose("a");
    assert_eq!(counts(), (2, 2), "a tunnel has it");
    drop(held);
    lose("a");
    lose("b");
    assert_eq!((bench.learn("b", 2), counts()), (Learned::Moved, (1, 0)));
    assert_eq!(bench.table.home(2).present(), 1);
    assert!(bench.forget("a"));
    assert_eq!(counts(), (0, 0));
}

#[test]
fn a_tunnel_keeps_its_session_and_ends_it() {
    let mut bench = Bench::new(10);
    bench.learn("a", 1);
    let (one, two) = (bench.hold("a").unwrap(), bench.hold("a").unwrap());
    assert_eq!(bench.table.home(1).websockets(), 0);
    assert!(one.upgraded().is_some() && one.upgraded().is_none());
    assert!(bench.table.find(bench.table.key("a")).unwrap().is(Mark::Upgraded));
    assert_eq!(bench.table.home(1).websockets(), 1);
    bench.pass(10_000);
    one.ended(Cause::Server);
    drop(one);
    bench.pass(10_000);
    assert_eq!(bench.alive_on(1), 1);
    two.ended(Cause::ClientLost);
    drop(two);
    assert_eq!((bench.table.live(), bench.alive_on(1)), (0, 0), "it counts no more");
    assert_eq!((bench.table.home(1).websockets(), bench.table.home(1).closed()), (0, 1));
    assert_eq!((bench.table.totals().ended(Cause::ClientLost), bench.ended()), (1, 1));
    assert!(bench.hold("a").is_none());
    bench.pass(u64::from(AFTERGLOW));
    assert_eq!(bench.find("a"), Some(1), "requests may be on their way");
    bench.pass(u64::from(LAG));
    assert_eq!(bench.find("a"), None, "which put nothing off");
    bench.pass(4);
    assert!(bench.table.is_empty());
    assert_eq!(bench.ended(), 1);
}

#[test]
fn a_tunnel_that_ends_without_a_word_leaves_its_session_a_while() {
    let mut bench = Bench::new(10);
    bench.learn("a", 1);
    let held = bench.hold("a").unwrap();
    held.upgraded();
    drop(held);
    bench.pass(u64::from(AFTERGLOW));
    assert_eq!((bench.table.live(), bench.find("a")), (1, Some(1)), "whoever asks for it keeps it");
    bench.pass(30);
    assert_eq!(bench.find("a"), Some(1));
    bench.pass(LIFE.as_secs() + 10);
    assert_eq!(bench.table.totals().ended(Cause::Silent), 1);
}

#[test]
fn a_goodbye_is_the_end_but_not_for_what_is_on_its_way() {
    let mut bench = Bench::new(10);
    bench.learn("a", 1);
    let key = bench.table.key("a");
    assert!(bench.table.goodbye(key, Cause::Client) && !bench.table.goodbye(key, Cause::Client));
    assert!(!bench.forget("a") && bench.hold("a").is_none() && !bench.table.mark(key, Mark::Offered));
    assert_eq!((bench.table.live(), bench.table.sessions_on(1), bench.find("a")), (0, 0, Some(1)));
    assert_eq!(bench.learn("a", 2), Learned::New, "it is another one by the same name");
    assert_eq!((bench.table.sessions_on(1), bench.table.sessions_on(2), bench.table.len()), (0, 1, 1));
    bench.table.goodbye(key, Cause::Server);
    bench.pass(u64::from(AFTERGLOW + LAG) + 4);
    assert!(bench.table.is_empty());
    let totals = bench.table.totals();
    assert_eq!((totals.ended(Cause::Client), totals.ended(Cause::Server), bench.ended()), (1, 1, 2));
}

#[test]
fn how_long_a_session_may_be_silent_is_known_from_its_handshake_only() {
    let bench = Bench::new(10);
    let key = bench.table.key("a");
    let learn = |seconds, how| bench.table.learn(key, &bench.table.home(1), Duration::from_secs(seconds), how);
    assert_eq!(bench.table.silence(key), None);
    learn(90, How::Rescue);
    assert_eq!(bench.table.silence(key), None);
    learn(300, How::Handshake);
    assert_eq!(bench.table.silence(key), Some(Duration::from_secs(300)));
    learn(90, How::Rescue);
    assert_eq!(bench.table.silence(key), Some(Duration::from_secs(300)), "what is known stays known");
}

#[tokio::test(start_paused = true)]
async fn the_time_to_the_websocket_is_that_from_the_handshake() {
    let table = SessionTable::new(10);
    let (seen, found) = (table.key("seen"), table.key("found"));
    table.learn(seen, &table.home(1), LIFE, How::Handshake);
    table.learn(found, &table.home(1), LIFE, How::Rescue);
    assert!(table.offer(seen) && !table.offer(seen) && !table.offer(table.key("nobody")));
    tokio::time::advance(Duration::from_millis(250)).await;
    assert_eq!(table.upgrade(seen), Some(Upgrade { after: Some(Duration::from_millis(250)) }));
    assert_eq!(table.upgrade(seen), None);
    assert_eq!(table.upgrade(found), Some(Upgrade { after: None }));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(table.upgrades(), Recent { offered: 1, reached: 2 });
    assert_eq!(table.home(1).websockets(), 2);
    table.learn(seen, &table.home(2), LIFE, How::Rescue);
    assert_eq!((table.home(1).websockets(), table.home(2).websockets()), (1, 1), "it takes its socket along");
    table.forget(seen, Cause::Drain);
    assert_eq!((table.home(2).websockets(), table.live()), (0, 1));
}

#[test]
fn a_websocket_that_was_only_tried_leaves_the_polls_their_time() {
    let mut bench = Bench::new(10);
    bench.learn("a", 1);
    drop(bench.hold("a"));
    bench.pass(30);
    assert_eq!(bench.find("a"), Some(1));
}

#[test]
fn no_tunnel_is_miscounted_however_many_there_are() {
    let mut bench = Bench::new(10);
    bench.learn("a", 1);
    let held: Vec<_> = (0..300).filter_map(|_| bench.hold("a")).collect();
    assert_eq!(held.len(), 255);
    bench.pass(1000);
    assert_eq!(bench.find("a"), Some(1));
    drop(held);
    bench.pass(LIFE.as_secs() + 10);
    assert!(bench.table.is_empty());
}

#[test]
fn a_forgotten_session_is_gone_even_while_a_tunnel_holds_it() {
    let bench = Bench::new(10);
    bench.learn("a", 1);
    assert!(bench.forget("a") && !bench.forget("a"));
    assert!(bench.table.is_empty());
    bench.learn("a", 1);
    let held = bench.hold("a").unwrap();
    assert!(bench.forget("a") && !bench.forget("a"));
    assert_eq!((bench.find("a"), bench.hold("a").is_some(), bench.alive_on(1)), (None, false, 0));
    assert_eq!((bench.table.len(), bench.table.sessions_on(1)), (1, 0));
    drop(held);
    assert_eq!((bench.table.len(), bench.table.sessions_on(1)), (0, 0));
    assert_eq!(bench.table.totals().ended(Cause::Unknown), 2);
}

#[test]
fn a_forgotten_session_that_is_learned_again_keeps_its_tunnels() {
    let mut bench = Bench::new(10);
    bench.learn("a", 1);
    let held = bench.hold("a").unwrap();
    bench.forget("a");
    assert_eq!(bench.learn("a", 2), Learned::New);
    assert_eq!((bench.table.sessions_on(1), bench.table.sessions_on(2)), (0, 1));
    bench.pass(1000);
    assert_eq!(bench.find("a"), Some(2));
    drop(held);
}

#[test]
fn a_rescued_session_moves_and_is_no_longer_told_to_leave() {
    let bench = Bench::new(10);
    bench.learn("a", 1);
    let key = bench.table.key("a");
    assert!(bench.table.mark(key, Mark::Leaving) && bench.table.mark(key, Mark::Offered));
    assert_eq!(bench.learn("a", 1), Learned::Known);
    assert!(bench.table.find(key).unwrap().is(Mark::Leaving));
    assert_eq!(bench.table.learn(key, &bench.table.home(2), LIFE, How::Rescue), Learned::Moved);
    let found = bench.table.find(key).unwrap();
    assert_eq!((found.server, found.is(Mark::Leaving), found.is(Mark::Offered)), (2, false, true));
    assert_eq!((bench.table.home(1).live(), bench.table.home(2).live()), (0, 1));
    assert!(!bench.table.mark(bench.table.key("b"), Mark::Offered));
}

#[test]
fn a_full_table_refuses_the_new_and_keeps_the_old() {
    let mut bench = Bench::new(100);
    for sid in 0..200 {
        let learned = bench.learn(&sid.to_string(), 1);
        assert_eq!(learned, if sid < 100 { Learned::New } else { Learned::Full });
        bench.find(&sid.to_string());
    }
    assert!((0..100).all(|sid| bench.find(&sid.to_string()) == Some(1)));
    assert_eq!((bench.table.len(), bench.table.totals().refused, bench.table.sessions_on(1)), (100, 100, 100));
    bench.pass(LIFE.as_secs() + 10);
    assert_eq!(bench.learn("new", 1), Learned::New);
    bench.find("new");
    bench.table.set_max(0);
    assert_eq!((bench.learn("newer", 1), bench.learn("new", 1)), (Learned::Full, Learned::Known));
}

#[test]
fn a_full_table_forgets_first_what_nobody_has_come_back_with() {
    let bench = Bench::new(100);
    for sid in 0..50 {
        bench.learn(&format!("used{sid}"), 1);
        bench.find(&format!("used{sid}"));
    }
    let held: Vec<_> =
        (0..10).map(|sid| format!("held{sid}")).map(|sid| (bench.learn(&sid, 1), bench.hold(&sid))).collect();
    for sid in 0..1000 {
        assert_eq!(bench.learn(&format!("stranger{sid}"), 1), Learned::New);
    }
    assert!((0..50).all(|sid| bench.find(&format!("used{sid}")).is_some()));
    assert!(held.iter().all(|(_, held)| held.is_some()));
    assert_eq!((bench.table.len(), bench.table.sessions_on(1)), (100, 100));
    let queued: usize = bench.table.shards.iter().map(|shard| shard.lock().unused.len()).sum();
    assert_eq!(bench.table.unused.load(Relaxed), queued);
}

#[test]
fn a_million_made_up_ids_take_no_more_room_than_there_is_and_harm_no_session_that_is_used() {
    let bench = Bench::new(2_000);
    for sid in 0..1_000 {
        bench.learn(&format!("used{sid}"), 1);
        bench.find(&format!("used{sid}"));
    }
    let stranger = bench.table.home(2);
    for number in 0..1_000_000_u64 {
        // What a hash of its id comes to, without the time that hashing takes.
        let key = Key([number.wrapping_mul(0x9e37_79b9_7f4a_7c15), number.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)]);
        assert_eq!(bench.table.learn(key, &stranger, LIFE, How::Handshake), Learned::New);
    }
    assert_eq!(bench.table.len(), 2_000);
    assert!((0..1_000).all(|sid| bench.find(&format!("used{sid}")) == Some(1)));
    let queued: usize = bench.table.shards.iter().map(|shard| shard.lock().unused.len()).sum();
    assert!(queued <= 4_000, "{queued}");
}

#[test]
fn what_nobody_comes_back_with_is_remembered_for_a_minute() {
    let mut bench = Bench::new(10);
    let day = Duration::from_secs(24 * 60 * 60);
    for sid in ["left", "used"] {
        bench.table.learn(bench.table.key(sid), &bench.table.home(1), day, How::Handshake);
    }
    bench.find("used");
    bench.pass(70);
    assert_eq!((bench.find("left"), bench.find("used")), (None, Some(1)));
    assert_eq!(bench.table.unused.load(Relaxed), 0);
}

#[test]
fn what_has_expired_makes_room_before_its_sweep() {
    let mut bench = Bench::new(1);
    // Two sessions of one shard, one that the next sweeps do not come to.
    let shard = |sid: &str| bench.table.key(sid).0[1] as usize % SHARDS;
    let last = (0..).map(|n| n.to_string()).find(|sid| shard(sid) == SHARDS - 1).unwrap();
    let other = (0..).map(|n| format!("other{n}")).find(|sid| shard(sid) == SHARDS - 1).unwrap();
    bench.learn(&last, 1);
    bench.pass(LIFE.as_secs() + 2);
    assert_eq!((bench.seconds % 4, bench.table.len()), (1, 1));
    assert_eq!(bench.learn(&other, 1), Learned::New);
    assert_eq!((bench.find(&last), bench.find(&other), bench.table.len()), (None, Some(1), 1));
}

#[test]
fn homes_last_while_somebody_needs_them() {
    let mut bench = Bench::new(10);
    bench.learn("a", 1);
    let kept = bench.table.home(2);
    drop(bench.table.home(3));
    bench.pass(1);
    assert_eq!(bench.table.homes().len(), 2);
    assert_eq!((bench.table.home(1).opened(), kept.server()), (1, 2));
    bench.pass(100);
    assert_eq!(bench.table.homes().keys().collect::<Vec<_>>(), [&2]);
}

#[test]
fn a_key_tells_nothing_of_its_session_and_holds_in_one_table_only() {
    let (one, other) = (SessionTable::new(1), SessionTable::new(1));
    assert_eq!(one.key("sid"), one.key("sid"));
    assert_ne!(one.key("sid"), other.key("sid"));
    assert_ne!(one.key("sid").0[0], one.key("sid").0[1]);
    let keys: HashSet<_> = (0..100_000).map(|n| one.key(&n.to_string())).collect();
    assert_eq!(keys.len(), 100_000);
    assert_eq!(keys.iter().map(|key| key.0[0]).collect::<HashSet<_>>().len(), 100_000);
    assert_eq!(one.key("sid").to_string().len(), 16);
}

#[test]
fn memory_is_bounded_by_the_sessions_there_are() {
    let mut bench = Bench::new(100_000);
    assert_eq!(size_of::<(Key, Entry)>(), 40);
    let room = |bench: &Bench| bench.table.shards.iter().map(|shard| shard.lock().sessions.capacity()).sum::<usize>();
    for generation in 0..3 {
        for session in 0..100_000 {
            assert_eq!(bench.learn(&format!("{generation}-{session}"), 1), Learned::New);
        }
        assert!(room(&bench) <= 250_000, "{}", room(&bench));
        bench.pass(LIFE.as_secs() + 6);
    }
    assert!(bench.table.is_empty());
    assert!(room(&bench) <= SHARDS * 64, "{}", room(&bench));
}

#[tokio::test(start_paused = true)]
async fn the_sweeping_task_moves_the_clock_and_ends_with_its_table() {
    let table = SessionTable::new(10);
    let sweeper = tokio::spawn(table.run());
    let key = table.key("a");
    table.learn(key, &table.home(1), LIFE, How::Handshake);
    tokio::time::sleep(LIFE).await;
    assert_eq!(table.len(), 1);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(table.is_empty());
    drop(table);
    sweeper.await.unwrap();
}

#[test]
fn many_threads_leave_the_counts_exact() {
    let table = SessionTable::new(300);
    let homes = [table.home(0), table.home(1), table.home(2)];
    let sweeping = std::sync::atomic::AtomicBool::new(true);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4u64)
            .map(|worker| {
                let (table, homes) = (&table, &homes);
                scope.spawn(move || {
                    let mut held = Vec::new();
                    let mut dice = worker + 1;
                    for _ in 0..20_000 {
                        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let key = table.key(&((dice >> 40) % 500).to_string());
                        match dice >> 60 {
                            0..=5 => {
                                let life = Duration::from_secs(dice >> 58);
                                table.learn(key, &homes[(dice >> 33) as usize % 3], life, How::Handshake);
                            }
                            6..=9 => drop(table.find(key)),
                            10 if dice & 1 == 0 => drop(table.forget(key, Cause::Unknown)),
                            10 => drop(table.goodbye(key, Cause::Client)),
                            11 => drop(table.mark(key, Mark::Upgraded)),
                            12 => held.clear(),
                            _ => held.extend(table.hold(key)),
                        }
                        assert!(table.len() <= 300 && homes.iter().all(|home| home.live() <= 300));
                    }
                })
            })
            .collect();
        let (table, sweeping) = (&table, &sweeping);
        scope.spawn(move || {
            for second in 0.. {
                table.sweep(table.clock.start() + Duration::from_secs(second));
                if !sweeping.load(Relaxed) {
                    return;
                }
                thread::yield_now();
            }
        });
        // The sweeper has to hear of the end even if a worker has failed.
        let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        sweeping.store(false, Relaxed);
        assert!(ended.into_iter().all(|end| end.is_ok()));
    });
    let count = |counts: fn(&Entry) -> bool| -> usize {
        let shards = table.shards.iter();
        shards.map(|shard| shard.lock().sessions.values().filter(|entry| counts(entry)).count()).sum()
    };
    assert_eq!(table.len(), count(|_| true));
    assert_eq!(table.live(), count(|entry| entry.marks & ENDED == 0));
    assert_eq!(
        homes.iter().map(|home| home.websockets()).sum::<usize>(),
        count(|entry| entry.marks & Mark::Upgraded as u8 != 0)
    );
    assert!(table.shards.iter().all(|shard| shard.lock().sessions.values().all(|entry| entry.holds == 0)));
}

#[derive(Clone, Debug)]
enum Step {
    Learn { sid: u8, server: u64, life: u64 },
    Find(u8),
    Forget(u8),
    Goodbye(u8),
    Lose(u8),
    Hold(u8),
    Release(usize, bool),
    Mark(u8, Mark),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let sid = || 0..12u8;
    let mark = prop_oneof![Just(Mark::Offered), Just(Mark::Upgraded), Just(Mark::Leaving)];
    prop_oneof![
        4 => (sid(), 0..3u64, 0..40u64).prop_map(|(sid, server, life)| Step::Learn { sid, server, life }),
        4 => sid().prop_map(Step::Find),
        1 => sid().prop_map(Step::Forget),
        1 => sid().prop_map(Step::Goodbye),
        2 => sid().prop_map(Step::Lose),
        2 => sid().prop_map(Step::Hold),
        2 => (0..4usize, any::<bool>()).prop_map(|(which, told)| Step::Release(which, told)),
        1 => (sid(), mark).prop_map(|(sid, mark)| Step::Mark(sid, mark)),
        3 => (1..20u64).prop_map(Step::Pass),
    ]
}

/// The same in plain words: one map, no shards, no sweeps, exact to the second.
#[derive(Default)]
struct Model {
    now: u64,
    sessions: HashMap<u8, Known>,
}

#[derive(Clone)]
struct Known {
    server: u64,
    life: u64,
    due: u64,
    held: usize,
    ended: bool,
    marks: Vec<Mark>,
    used: bool,
    lost: bool,
}

impl Model {
    fn live(&mut self, sid: u8) -> Option<&mut Known> {
        self.sessions.get_mut(&sid).filter(|known| !known.ended)
    }

    fn find(&mut self, sid: u8) -> Option<&mut Known> {
        let now = self.now;
        self.sessions.get_mut(&sid).filter(|known| !known.ended || known.due > now)
    }

    fn pass(&mut self, seconds: u64) {
        self.now += seconds;
        self.sessions.retain(|_, known| known.held > 0 || known.due > self.now);
    }

    fn learn(&mut self, sid: u8, server: u64, life: u64) -> Learned {
        let due = self.now + life + u64::from(LAG);
        if let Some(known) = self.sessions.get_mut(&sid) {
            let moved = known.server != server;
            (known.life, known.due, known.server, known.lost) = (life, due, server, false);
            if std::mem::take(&mut known.ended) {
                known.marks.clear();
                known.used = false;
                return Learned::New;
            }
            if moved {
                known.marks.retain(|&mark| mark != Mark::Leaving);
                return Learned::Moved;
            }
            return Learned::Known;
        }
        let known = Known { server, life, due, held: 0, ended: false, marks: Vec::new(), used: false, lost: false };
        self.sessions.insert(sid, known);
        Learned::New
    }

    /// Ends a session that lives; the way to it is known for so long. False if it did not live.
    fn end(&mut self, sid: u8, afterglow: u32) -> bool {
        let due = self.now + u64::from(afterglow);
        let Some(known) = self.live(sid) else { return false };
        (known.ended, known.due) = (true, due);
        known.marks.retain(|&mark| mark != Mark::Upgraded);
        self.pass(0);
        true
    }

    fn release(&mut self, sid: u8, told: bool) {
        let soon = self.now + u64::from(AFTERGLOW + LAG);
        let known = self.sessions.get_mut(&sid).unwrap();
        known.held -= 1;
        if known.held == 0 && !known.ended {
            match (known.marks.contains(&Mark::Upgraded), told) {
                (true, true) => drop(self.end(sid, AFTERGLOW + LAG)),
                (true, false) => known.due = soon,
                (false, _) => known.due = known.due.max(soon),
            }
        }
        self.pass(0);
    }
}

proptest! {
    #[test]
    fn the_table_does_what_a_plain_map_would(steps in prop::collection::vec(step(), 1..150)) {
        let mut bench = Bench::new(12);
        let mut model = Model::default();
        let mut held: Vec<(u8, Held)> = Vec::new();
        for step in steps {
            match step {
                Step::Learn { sid, server, life } => {
                    let (key, home) = (bench.table.key(&sid.to_string()), bench.table.home(server));
                    let learned = bench.table.learn(key, &home, Duration::from_secs(life), How::Handshake);
                    // Expired sessions that wait for their sweep may have taken the last place.
                    if learned == Learned::Full {
                        prop_assert!(bench.table.len() == 12 && model.sessions.len() < 12);
                    } else {
                        prop_assert_eq!(learned, model.learn(sid, server, life));
                    }
                    // In its place one may have gone that nobody has come back with.
                    let gone = |sid: &u8| !bench.has(&sid.to_string());
                    prop_assert!(model.sessions.iter().filter(|(sid, _)| gone(sid)).all(|(_, known)| !known.used));
                    model.sessions.retain(|sid, _| !gone(sid));
                }
                Step::Find(sid) => {
                    let found = bench.table.find(bench.table.key(&sid.to_string()));
                    let now = model.now;
                    let known = model.find(sid);
                    prop_assert_eq!(found.map(|found| found.server), known.as_ref().map(|known| known.server));
                    if let (Some(found), Some(known)) = (found, known) {
                        if !known.ended {
                            (known.used, known.lost) = (true, false);
                            known.due = now + known.life + u64::from(LAG);
                        }
                        for mark in [Mark::Offered, Mark::Upgraded, Mark::Leaving] {
                            prop_assert_eq!(found.is(mark), known.marks.contains(&mark));
                        }
                    }
                }
                Step::Forget(sid) => {
                    prop_assert_eq!(bench.forget(&sid.to_string()), model.end(sid, 0));
                }
                Step::Goodbye(sid) => {
                    let ended = bench.table.goodbye(bench.table.key(&sid.to_string()), Cause::Client);
                    prop_assert_eq!(ended, model.end(sid, AFTERGLOW + LAG));
                }
                Step::Lose(sid) => {
                    bench.table.lose(bench.table.key(&sid.to_string()));
                    if let Some(known) = model.live(sid).filter(|known| known.held == 0) {
                        known.lost = true;
                    }
                }
                Step::Hold(sid) => {
                    let guard = bench.hold(&sid.to_string());
                    let known = model.live(sid);
                    prop_assert_eq!(guard.is_some(), known.is_some());
                    if let (Some(guard), Some(known)) = (guard, known) {
                        known.held += 1;
                        (known.used, known.lost) = (true, false);
                        held.push((sid, guard));
                    }
                }
                Step::Release(which, told) if which < held.len() => {
                    let (sid, guard) = held.swap_remove(which);
                    if told {
                        guard.ended(Cause::Server);
                    }
                    drop(guard);
                    model.release(sid, told);
                }
                Step::Release(..) => {}
                Step::Mark(sid, mark) => {
                    let new = model.live(sid).is_some_and(|known| {
                        let new = !known.marks.contains(&mark);
                        known.marks.push(mark);
                        new
                    });
                    prop_assert_eq!(bench.table.mark(bench.table.key(&sid.to_string()), mark), new);
                }
                Step::Pass(seconds) => {
                    let there = model.sessions.values().filter(|known| known.server == 1 && !known.ended);
                    prop_assert_eq!(bench.alive_on(1), there.count());
                    bench.pass(seconds);
                    model.pass(seconds);
                }
            }
            prop_assert!(bench.table.len() >= model.sessions.len());
            for server in 0..3 {
                let there = || model.sessions.values().filter(|known| known.server == server && !known.ended);
                prop_assert!(bench.table.sessions_on(server) >= there().count());
                let lost = bench.table.sessions_on(server) - bench.table.home(server).present();
                prop_assert!(lost >= there().filter(|known| known.lost).count());
                let on_websocket = there().filter(|known| known.marks.contains(&Mark::Upgraded)).count();
                prop_assert!(bench.table.home(server).websockets() >= on_websocket);
            }
        }
        for (sid, guard) in held.drain(..) {
            drop(guard);
            model.release(sid, false);
        }
        bench.pass(60);
        prop_assert!(bench.table.is_empty());
        prop_assert!((0..3).all(|server| bench.table.sessions_on(server) == 0));
        bench.learn("last", 1);
        prop_assert_eq!(bench.table.home(1).present(), 1);
        bench.forget("last");
        let totals = bench.table.totals();
        prop_assert_eq!(totals.learned, bench.ended());
        prop_assert!((0..3).all(|server| bench.table.home(server).websockets() == 0));
    }
}
