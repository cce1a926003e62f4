//! What the metrics read from the other parts at each scrape.
//!
//! A scrape waits for nothing. What only the state has is counted in the background, and `/metrics` has
//! the time of the last count.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::KeyValue;
use tokio_util::sync::CancellationToken;

use crate::{
    accounts::{Account, Registry, token::Tokens},
    events::Audits,
    journal::SubmissionRecord,
    metrics::{Instrument, Metrics, Provider, attribute, process, table},
    pb::AuditState,
    server::{listener::Places, middleware::Budgets},
    state::{self, State, SubmissionQuery, WriteQuery, WriteState, is_open},
    tls::Tls,
    util::{build_info, clock::Clock, id::AppId, lock, scope::Scope},
};

/// The shortest pause between two counts of what is in the state.
const COUNT_PAUSE: Duration = Duration::from_secs(15);
/// A count takes at most one part in so many of the time.
const COUNT_SHARE: u32 = 50;
/// The rows that are read at once.
const PAGE: usize = 500;

/// The parts that are read.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) registry: Registry,
    pub(crate) audits: Audits,
    pub(crate) budgets: Budgets,
    /// The connections of each listener, by its key in `[listen]`.
    pub(crate) places: [(&'static str, Arc<Places>); 3],
    pub(crate) tls: Vec<Tls>,
    pub(crate) state: Arc<dyn State>,
    pub(crate) clock: Clock,
}

/// The numbers of unfinished work in the state.
#[derive(Debug, Default)]
struct Counts {
    unknown: usize,
    open: usize,
    overdue: usize,
    /// The time of the oldest open submission of each account, in milliseconds since 1970.
    oldest: HashMap<AppId, u64>,
    /// When they were counted. `None` before the first count.
    at: Option<SystemTime>,
}

/// The last counts. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct StateCounts(Arc<Mutex<Counts>>);

/// Registers everything that is read at a scrape.
pub(crate) fn register(provider: &Provider, observed: Observed, counts: &StateCounts) {
    let Observed { registry, audits, budgets, places, tls, state: stored, clock } = observed;
    accounts(provider, &registry, &audits, &clock);
    process(provider);
    state(provider, counts);
    let metrics = provider.metrics();
    provider.observe(&table::STATE_OPERATION_AGE, move || {
        [(metrics.oldest_operation().as_secs_f64(), Vec::new())]
    });
    provider.observe(&table::CALLS_RUNNING, move || [plain(budgets.calls())]);
    provider.observe(&table::CONNECTION_COUNT, move || {
        let places = places.iter();
        places
            .map(|(listener, places)| {
                let listener = KeyValue::new(attribute::LISTENER, *listener);
                (places.taken() as f64, vec![listener])
            })
            .collect::<Vec<_>>()
    });
    provider.observe(&table::CERTIFICATE_EXPIRY_TIME, move || {
        let expiry = |tls: &Tls| {
            let (section, first_expiry) = tls.expiry();
            (first_expiry as f64, vec![KeyValue::new(attribute::LISTENER, section)])
        };
        tls.iter().map(expiry).collect::<Vec<_>>()
    });
    provider.observe(&table::STATE_CLOSED_SECRETS, move || {
        let secret = |kind| vec![KeyValue::new(attribute::SECRET, kind)];
        let closed = stored.closed_secrets().into_iter();
        closed.map(move |(kind, count)| (count as f64, secret(kind)))
    });
    let watched = audits.clone();
    provider.observe(&table::WATCHER_COUNT, move || [plain(watched.watchers().0)]);
    provider.observe(&table::WATCHER_LAG, move || [(audits.watchers().1 as f64, Vec::new())]);
}

/// Returns a value without attributes.
fn plain(value: usize) -> (f64, Vec<KeyValue>) {
    (value as f64, Vec::new())
}

fn process(provider: &Provider) {
    provider.observe(&table::PROCESS_CPU_TIME, || {
        let mode = |mode: &'static str| vec![KeyValue::new(attribute::CPU_MODE, mode)];
        let usage = process::usage();
        usage.into_iter().flat_map(move |usage| {
            [(usage.user_time, mode("user")), (usage.system_time, mode("system"))]
        })
    });
    provider.observe(&table::PROCESS_MEMORY_USAGE, || {
        process::usage().map(|usage| (usage.memory as f64, Vec::new()))
    });
    provider.observe(&table::PROCESS_THREAD_COUNT, || {
        process::usage().map(|usage| (usage.threads as f64, Vec::new()))
    });
    provider.observe(&table::PROCESS_UNIX_FILE_DESCRIPTOR_COUNT, || {
        process::file_descriptors().map(plain)
    });
    provider.observe(&table::BUILD_INFO, || {
        let version = KeyValue::new(attribute::VERSION, build_info::VERSION);
        let commit = KeyValue::new(attribute::COMMIT, build_info::COMMIT);
        [(1.0, vec![version, commit])]
    });
}

/// Reads a value of one account.
type Read = Box<dyn Fn(&Account) -> Option<f64> + Send + Sync>;

/// How the values of all accounts that have no series of their own become one.
#[derive(Clone, Copy, Debug)]
enum Fold {
    Largest,
    Smallest,
    Sum,
}

fn accounts(provider: &Provider, registry: &Registry, audits: &Audits, clock: &Clock) {
    let metrics = provider.metrics();
    let each = move |instrument: &Instrument, fold: Fold, value: Read| {
        let (registry, metrics) = (registry.clone(), metrics.clone());
        provider.observe(instrument, move || by_account(&registry, &metrics, fold, &value));
    };
    let now = clock.clone();
    tokens(provider, registry);
    each(
        &table::QUOTA_SPENT,
        Fold::Sum,
        Box::new(move |account| Some(account.quotas.count(now.unix()) as f64)),
    );
    each(
        &table::PERMIT_USED,
        Fold::Sum,
        Box::new(|account| Some(account.concurrency.running() as f64)),
    );
    each(
        &table::PERMIT_WAITING,
        Fold::Sum,
        Box::new(|account| Some(account.concurrency.waiting() as f64)),
    );
    let audits = audits.clone();
    each(
        &table::CALLBACK_LAST_TIME,
        Fold::Smallest,
        Box::new(move |account| {
            account.receives_pushes().then_some(())?;
            Some(audits.last_push(&account.app_id).map_or(0.0, seconds))
        }),
    );
}

/// Observes the tokens of accounts and of platforms.
fn tokens(provider: &Provider, registry: &Registry) {
    let each = |instrument: &Instrument, fold: Fold, value: fn(&Tokens) -> Option<f64>| {
        let (registry, metrics) = (registry.clone(), provider.metrics());
        provider.observe(instrument, move || {
            let holders = registry.token_holders();
            let values = holders.iter().filter_map(|(id, tokens)| Some((id, value(tokens)?)));
            folded(values, &metrics, fold)
        });
    };
    each(&table::TOKEN_AGE, Fold::Largest, |tokens| tokens.age().map(|age| age.as_secs_f64()));
    each(&table::TOKENS_MISSING, Fold::Sum, |tokens| {
        Some(f64::from(u8::from(tokens.is_missing())))
    });
}

/// Returns the values of the first accounts, and one for all others together.
fn by_account(
    registry: &Registry,
    metrics: &Metrics,
    fold: Fold,
    value: impl Fn(&Account) -> Option<f64>,
) -> Vec<(f64, Vec<KeyValue>)> {
    let accounts = registry.all(&Scope::All);
    let values = accounts.iter().filter_map(|account| Some((&account.app_id, value(account)?)));
    folded(values, metrics, fold)
}

/// Returns the values of the first accounts, and one for all others together.
fn folded<'a>(
    values: impl Iterator<Item = (&'a AppId, f64)>,
    metrics: &Metrics,
    fold: Fold,
) -> Vec<(f64, Vec<KeyValue>)> {
    let mut folded = HashMap::<KeyValue, f64>::new();
    for (app_id, value) in values {
        let known = folded.entry(metrics.account(app_id.as_str()));
        known
            .and_modify(|known| {
                *known = match fold {
                    Fold::Largest => known.max(value),
                    Fold::Smallest => known.min(value),
                    Fold::Sum => *known + value,
                }
            })
            .or_insert(value);
    }
    folded.into_iter().map(|(account, value)| (value, vec![account])).collect()
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn state(provider: &Provider, counts: &StateCounts) {
    let each = |instrument: &Instrument, value: fn(&Counts) -> Option<f64>| {
        let counts = counts.clone();
        provider.observe(instrument, move || {
            let counts = lock(&counts.0);
            counts.at.and_then(|_| value(&counts)).map(|value| (value, Vec::new()))
        });
    };
    each(&table::WRITES_UNKNOWN, |counts| Some(counts.unknown as f64));
    each(&table::SUBMISSIONS_OPEN, |counts| Some(counts.open as f64));
    each(&table::SUBMISSIONS_OVERDUE, |counts| Some(counts.overdue as f64));
    each(&table::STATE_COUNT_TIME, |counts| counts.at.map(seconds));
    let (counts, metrics) = (counts.clone(), provider.metrics());
    provider.observe(&table::SUBMISSION_OLDEST_TIME, move || {
        let counts = lock(&counts.0);
        let oldest = counts.oldest.iter();
        let oldest = oldest.map(|(app_id, created)| (app_id, *created as f64 / 1_000.0));
        folded(oldest, &metrics, Fold::Smallest)
    });
}

/// Counts what is in the state, again and again until `stop`.
pub(crate) async fn count_state(
    state: Arc<dyn State>,
    audits: Audits,
    clock: Clock,
    counts: StateCounts,
    stop: CancellationToken,
) {
    let counting = async {
        loop {
            let began = Instant::now();
            match count(&*state, audits.overdue_after(), &clock).await {
                Ok(counted) => *lock(&counts.0) = counted,
                // Other lines name the failure, and the time of the last count stays.
                Err(error) => tracing::debug!("failed to count what is in the state: {error}"),
            }
            clock.sleep(COUNT_PAUSE.max(began.elapsed() * COUNT_SHARE)).await;
        }
    };
    stop.run_until_cancelled(counting).await;
}

async fn count(
    state: &dyn State,
    overdue_after: Duration,
    clock: &Clock,
) -> Result<Counts, state::Error> {
    let wall = clock.wall();
    let mut counts = Counts { at: Some(wall), ..Counts::default() };
    let states = vec![WriteState::Unknown];
    let mut query = WriteQuery { limit: PAGE, states, ..WriteQuery::default() };
    loop {
        let page = state.writes(query.clone()).await?;
        counts.unknown += page.writes.len();
        if page.at_end {
            break;
        }
        query.after = page.seen;
    }
    let states = vec![AuditState::AwaitingAdmin, AuditState::InReview];
    let mut query = SubmissionQuery { limit: PAGE, states, ..SubmissionQuery::default() };
    loop {
        let page = state.submissions(query.clone()).await?;
        for submission in page.submissions.iter().filter(|one| is_open(one.state)) {
            let created = state::from_millis(submission.created);
            counts.open += 1;
            let is_overdue = wall.duration_since(created).is_ok_and(|age| age >= overdue_after);
            counts.overdue += usize::from(is_overdue);
            // A damaged record has no account. Other lines name it.
            let Ok(record) = SubmissionRecord::parse(&submission.message) else { continue };
            let oldest = counts.oldest.entry(record.submission.app_id.into());
            let oldest = oldest.or_insert(submission.created);
            *oldest = submission.created.min(*oldest);
        }
        if page.at_end {
            return Ok(counts);
        }
        query.after = page.seen;
    }
}
