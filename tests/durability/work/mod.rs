//! Work for several gateways that share a state: callers that repeat their writes, a WeChat that repeats its pushes,
//! and watchers. Afterwards, all acknowledged work is there, and nothing happened twice.

mod check;
mod load;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::sleep};
use wechat_simulator::{Simulator, journal::Entry};

pub(crate) use self::check::Verdict;
use self::load::Load;
use crate::{
    gateway::{Gateway, LONG, MOMENT},
    sender::WeChat,
    watcher::Watcher,
};

/// Longer than the life of a token.
pub(crate) const EXPIRY: Duration = Duration::from_secs(7_300);

/// The work of one run.
pub(crate) struct Work {
    load: Arc<Load>,
    watchers: Vec<Watcher>,
    journal: JoinHandle<Vec<Entry>>,
}

/// The faults of a run.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// The processes that were killed or ended.
    pub(crate) kills: usize,
    pub(crate) freezes: usize,
    /// The networks that were cut.
    pub(crate) cuts: usize,
    /// How often the life of all tokens ended.
    pub(crate) expiries: usize,
    /// When each primary was killed.
    pub(crate) failovers: Vec<Instant>,
}

impl Faults {
    /// Returns how often a process may have been interrupted while it fetched a token.
    fn interruptions(&self) -> usize {
        self.kills + self.freezes + self.cuts + self.failovers.len()
    }
}

impl Work {
    /// Starts the work, with one watcher at each gateway.
    pub(crate) fn start(
        wechat: &WeChat,
        gateways: &[&Gateway],
        random: &mut fastrand::Rng,
    ) -> Self {
        let watchers = gateways.iter().map(|gateway| Watcher::start(gateway, random.fork()));
        let watchers = watchers.collect();
        let load = Load::start(&wechat.simulator, gateways, random);
        let journal = tokio::spawn(collect(wechat.simulator.clone(), load.clone()));
        Self { load, watchers, journal }
    }

    /// Waits until this many more events and writes are acknowledged.
    pub(crate) async fn progresses(&self, by: usize) {
        let (before, end) = (self.load.acknowledged(), Instant::now() + LONG);
        loop {
            let now = self.load.acknowledged();
            if now.0 >= before.0 + by && now.1 >= before.1 + by {
                return;
            }
            assert!(Instant::now() < end, "no progress: {before:?} {now:?}");
            sleep(MOMENT).await;
        }
    }

    /// Waits until all work has ended, and checks that it is there, once. One gateway is started again for this.
    pub(crate) async fn settle(
        self,
        wechat: &WeChat,
        gateway: &mut Gateway,
        faults: &Faults,
    ) -> Verdict {
        let Self { load, watchers, journal } = self;
        load.finish().await;
        let mut journal = journal.await.expect("no panic");
        journal.extend(wechat.simulator.take_calls());
        let forgotten = check::repeat(&load, &wechat.simulator).await;
        let refetched = check::use_stored_tokens(gateway, &wechat.simulator).await;
        let log = gateway.log_of_events().await;
        let mut seen = Vec::new();
        for watcher in watchers {
            seen.push(watcher.finish(log.len(), LONG).await);
        }
        check::Evidence { load: &load, faults, journal, log, seen, forgotten, refetched }.weigh()
    }
}

/// Collects the simulator's journal, which is limited, until the work has ended.
async fn collect(simulator: Simulator, load: Arc<Load>) -> Vec<Entry> {
    let mut calls = Vec::new();
    while !load.is_done() {
        calls.extend(simulator.take_calls());
        sleep(Duration::from_millis(500)).await;
    }
    calls
}
