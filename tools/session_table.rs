//! What the memory of sessions costs: bytes for each session, and nanoseconds for each operation.
//!
//! `cargo run --release --example session_table -- 1000000` fills a table, looks up sessions in an order that no cache
//! foresees, then lets them all expire. Bytes are the growth of the process's proportional set size (PSS).

use sockgate::internals::{How, Key, SessionTable};
use std::time::{Duration, Instant};
use std::{fs, thread};

type Error = Box<dyn std::error::Error>;

const LIFE: Duration = Duration::from_secs(55);
const LOOK_UPS: usize = 4_000_000;

fn main() -> Result<(), Error> {
    let count: usize = std::env::args().nth(1).unwrap_or("1000000".to_owned()).parse()?;
    let table = SessionTable::new(count);
    let homes: Vec<_> = (0..8).map(|server| table.home(server)).collect();
    let sids: Vec<[u8; 20]> = (0..count).map(sid).collect();
    let start = Instant::now();
    let keys: Vec<_> = sids.iter().map(|sid| table.key(text(sid))).collect();
    report("key", start.elapsed(), count);
    let empty = pss()?;

    let start = Instant::now();
    for (index, &key) in keys.iter().enumerate() {
        table.learn(key, &homes[index % homes.len()], LIFE, How::Handshake);
    }
    report("learn", start.elapsed(), count);
    let bytes = (pss()? - empty) * 1024;
    println!("{} sessions: {} MiB, {} bytes each", table.len(), bytes >> 20, bytes / count);

    let start = Instant::now();
    look_up(&table, &keys, 1);
    report("look-up", start.elapsed(), LOOK_UPS);
    let start = Instant::now();
    thread::scope(|scope| {
        for seed in 1..=2 {
            let (table, keys) = (&table, &keys);
            scope.spawn(move || look_up(table, keys, seed));
        }
    });
    report("look-up by each of two threads", start.elapsed(), LOOK_UPS);

    let now = tokio::time::Instant::now();
    let start = Instant::now();
    table.sweep(now);
    println!("sweep of a sixteenth that lives: {:?}", start.elapsed());
    let start = Instant::now();
    for _ in 0..16 {
        table.sweep(now + LIFE * 2);
    }
    println!("sixteen sweeps that remove everything: {:?}", start.elapsed());
    println!("{} sessions: {} KiB more than at the start", table.len(), pss()?.saturating_sub(empty));
    Ok(())
}

/// Looks sessions up as if by chance.
fn look_up(table: &SessionTable, keys: &[Key], seed: usize) {
    let mut dice = seed;
    for _ in 0..LOOK_UPS {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        assert!(table.find(keys[(dice >> 33) % keys.len()]).is_some());
    }
}

/// A session id of the shape that Engine.IO makes.
fn sid(index: usize) -> [u8; 20] {
    let mut sid = *b"Wq3kT0hmXvZ_AAAAAAAA";
    for (place, byte) in sid[12..].iter_mut().enumerate() {
        *byte = b'A' + (index >> (4 * place)) as u8 % 16;
    }
    sid
}

fn text(sid: &[u8]) -> &str {
    std::str::from_utf8(sid).unwrap_or_default()
}

/// The process's proportional set size in KiB.
fn pss() -> Result<usize, Error> {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss in smaps_rollup")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn report(what: &str, took: Duration, count: usize) {
    println!("{what}: {} ns each", took.as_nanos() / count as u128);
}
