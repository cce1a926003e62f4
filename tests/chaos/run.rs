//! One run: its gateways, its callers, and the records of both.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::time::sleep;
use tonic::Code;

use crate::{
    caller, check,
    door::Door,
    gateway::Gateway,
    print_figures,
    trouble::{self, Outage},
    wechat::{Stock, WeChat},
    write::Request,
};

/// The default duration of the faults.
const SECONDS: u64 = 30;
/// The callers of everything except new nearby places.
const CALLERS: usize = 200;
/// The callers of new nearby places, which wait for each other.
const NEARBY_CALLERS: usize = 12;
/// The connections to each gateway.
const CONNECTIONS: usize = 4;
/// The most objects of each kind that are used up per second.
const PLENTY: u64 = 4;

/// The data that callers share.
#[derive(Debug)]
pub(crate) struct Run {
    /// The connections to each gateway.
    pub(crate) doors: Vec<Vec<Door>>,
    pub(crate) stock: Stock,
    pub(crate) writes: Mutex<Vec<Arc<Write>>>,
    pub(crate) calls: Mutex<Vec<Call>>,
    /// The broken promises that were seen.
    pub(crate) wrong: Mutex<Vec<String>>,
    pub(crate) outages: Mutex<Vec<Outage>>,
    /// A source of unique values.
    pub(crate) counter: AtomicU64,
    /// Set when the faults are over.
    pub(crate) ended: AtomicBool,
}

/// A write with its request id. Several callers may send it.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) request_id: String,
    pub(crate) request: Request,
    pub(crate) answers: Mutex<Vec<Answer>>,
}

/// An answer about a write.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// When the call began.
    pub(crate) from: u64,
    /// When it ended.
    pub(crate) until: u64,
    pub(crate) verdict: Verdict,
}

/// The meaning of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// OK, with these bytes.
    Done(Vec<u8>),
    /// A definite refusal. A repeat cannot help.
    Refused(String),
    /// The outcome is unknown.
    Unknown,
    /// The write must be repeated.
    Again,
}

/// Any call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) gateway: usize,
    pub(crate) method: &'static str,
    pub(crate) from: u64,
    pub(crate) until: u64,
    pub(crate) time_left: Duration,
    /// The result, unless the caller left.
    pub(crate) status: Option<(Code, String)>,
}

impl Run {
    pub(crate) fn wrong(&self, what: String) {
        self.wrong.lock().expect("no panic").push(what);
    }

    pub(crate) fn next(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Write {
    /// Returns the answer that ended the write, if there was one.
    pub(crate) fn last_word(&self) -> Option<Verdict> {
        let answers = self.answers.lock().expect("no panic");
        let done = answers.iter().find(|answer| matches!(answer.verdict, Verdict::Done(_)));
        let last = done.or(answers.last())?;
        Some(last.verdict.clone()).filter(|verdict| *verdict != Verdict::Again)
    }
}

/// Runs callers and faults at the same time, and then checks the promises.
pub(crate) async fn run(name: &str, replicas: usize, state: &str) {
    let seed = match option_env!("CHAOS_SEED") {
        Some(seed) => seed.parse().expect("a number"),
        None => fastrand::u64(..1_000_000),
    };
    let seconds = match option_env!("CHAOS_SECONDS") {
        Some(seconds) => seconds.parse().expect("a number"),
        None => SECONDS,
    };
    print_figures(&format!("{name}: CHAOS_SEED={seed} CHAOS_SECONDS={seconds}"));
    let (began, mut random) = (Instant::now(), fastrand::Rng::with_seed(seed));
    let wechat = WeChat::start(seed).await;
    let stock = wechat.stock(PLENTY * seconds).await;
    let sections = WeChat::sections();
    let gateways = (0..replicas).map(|_| {
        let mut gateway = Gateway::with(wechat.address, state, &sections);
        gateway.spawn();
        gateway
    });
    let mut gateways: Vec<_> = gateways.collect();
    for gateway in &mut gateways {
        gateway.serves().await;
    }
    let doors = |gateway: &Gateway| (0..CONNECTIONS).map(|_| Door::new(gateway.grpc)).collect();
    let run = Arc::new(Run {
        doors: gateways.iter().map(doors).collect(),
        stock,
        writes: Mutex::default(),
        calls: Mutex::default(),
        wrong: Mutex::default(),
        outages: Mutex::default(),
        counter: AtomicU64::new(1),
        ended: AtomicBool::new(false),
    });

    let journal = tokio::spawn(trouble::collect(wechat.simulator.clone(), run.clone()));
    let reviews = tokio::spawn(trouble::reviews(wechat.simulator.clone(), run.clone()));
    let faults =
        tokio::spawn(trouble::faults(wechat.simulator.clone(), run.clone(), random.fork()));
    let kills = tokio::spawn(trouble::kills(gateways, run.clone(), random.fork()));
    let callers = (0..CALLERS + NEARBY_CALLERS).map(|caller| {
        let nearby = caller >= CALLERS;
        tokio::spawn(caller::call_on(run.clone(), random.fork(), nearby))
    });
    let callers: Vec<_> = callers.collect();
    sleep(Duration::from_secs(seconds)).await;
    run.ended.store(true, Ordering::Relaxed);
    let storms = faults.await.expect("no panic");
    let gateways = kills.await.expect("no panic");
    for caller in callers {
        caller.await.expect("no panic");
    }

    // The faults are over, so each caller queries the outcome of its writes.
    let writes = run.writes.lock().expect("no panic").clone();
    let resolved = writes.iter().map(|write| caller::resolve(&run, write, random.fork()));
    join_all(resolved).await;
    let left = check::left_open(&run).await;
    reviews.await.expect("no panic");
    let mut calls = journal.await.expect("no panic");
    calls.extend(wechat.simulator.take_calls());
    drop(gateways);
    check::all_is_well(name, &run, &calls, storms, &left, began.elapsed());
}
