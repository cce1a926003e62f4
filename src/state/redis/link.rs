//! The one connection to Redis that all verbs share, and how it is made again.
//!
//! Nothing is remembered for good: whatever an attempt failed of, the next one is made as soon as a
//! verb comes and the pause after the last failure is over. There is one attempt at a time, and
//! pauses grow to a second, of random length, so that many processes do not come at once.

use std::{
    convert::Infallible,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, IntoConnectionInfo, ProtocolVersion, PushInfo,
    PushKind, Script, ScriptInvocation, ServerErrorKind, Value, aio::MultiplexedConnection,
    io::tcp::TcpSettings,
};
use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};

use super::failure::Failure;
use crate::{state::Error, util::single_flight::SingleFlight};

/// How long an answer may take, connecting included.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How long a verb waits for an attempt to connect, once one has failed.
const IMPATIENCE: Duration = Duration::from_millis(500);
/// What has lived so long was a good connection: the next one is made at once.
const LIVED: Duration = Duration::from_secs(5);
/// So many failures in a row are waited through: about half a second.
const GRACE: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection, and its number.
type Way = (u64, MultiplexedConnection);

/// The way to a Redis.
pub(super) struct Link {
    client: Client,
    /// Notes which Redis this is, and answers whether it is another than before.
    meet: ScriptInvocation<'static>,
    ways: Mutex<Ways>,
    /// Tells whoever waits at Redis that the way there is another one.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Ways {
    /// The connection in use, and since when.
    open: Option<(Way, Instant)>,
    /// How many connections were tried.
    tried: u64,
    flight: SingleFlight<Result<Way, Error>>,
    /// The last failure, how many there were in a row, and when the next attempt may be made.
    failure: Option<(Error, u32, Instant)>,
}

impl Ways {
    /// Puts the next attempt off; the first one after a good connection not at all.
    fn fail(&mut self, why: Error, lived: Duration) {
        let before = self.failure.as_ref().filter(|_| lived < LIVED);
        let in_a_row = before.map_or(0, |(_, in_a_row, _)| *in_a_row) + 1;
        self.failure = Some((why, in_a_row, Instant::now() + pause(in_a_row)));
    }
}

fn pause(in_a_row: u32) -> Duration {
    match in_a_row {
        0 | 1 => Duration::ZERO,
        more => {
            let most = (FIRST_PAUSE * 2_u32.pow(more.min(10) - 2)).min(LONGEST_PAUSE);
            most.mul_f64(0.5 + fastrand::f64() / 2.0)
        }
    }
}

impl Link {
    /// Connects to nothing yet. `meet` is run first on every connection, with these arguments.
    pub(super) fn new(url: &str, meet: ScriptInvocation<'static>) -> Result<Arc<Self>, Error> {
        let told = |error| Failure::of(&error).error;
        let info = url.into_connection_info().map_err(told)?;
        // The newer protocol tells of a lost connection before the next verb runs into it.
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let info = info.set_redis_settings(redis).set_tcp_settings(tcp());
        let client = Client::open(info).map_err(told)?;
        let changed = watch::Sender::new(());
        Ok(Arc::new(Self { client, meet, ways: Mutex::default(), changed }))
    }

    /// Runs a script; once more by another connection, where that may be better. Where the script
    /// did run the first time, that is as if the caller had repeated it.
    pub(super) async fn query(
        self: &Arc<Self>,
        script: &Script,
        command: &Cmd,
    ) -> Result<Value, Error> {
        let used = AtomicU64::new(0);
        let answer = timeout(PATIENCE, async {
            match self.attempt(script, command, &used).await {
                Err(Failure { reconnect: true, .. }) => self.attempt(script, command, &used).await,
                answer => answer,
            }
        });
        match answer.await {
            Ok(answer) => answer.map_err(|failure| failure.error),
            Err(_) => {
                let late = Failure::late().error;
                self.discard(used.load(Ordering::Relaxed), late.clone());
                Err(late)
            }
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        script: &Script,
        command: &Cmd,
        used: &AtomicU64,
    ) -> Result<Value, Failure> {
        let way = self.way().await.map_err(|error| Failure { error, reconnect: false });
        let (number, mut connection) = way?;
        used.store(number, Ordering::Relaxed);
        let answer = match command.query_async(&mut connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                match script.load_async(&mut connection).await {
                    Ok(_) => command.query_async(&mut connection).await,
                    Err(error) => Err(error),
                }
            }
            answer => answer,
        };
        answer.map_err(|error| {
            let failure = Failure::of(&error);
            if failure.reconnect {
                self.discard(number, failure.error.clone());
            }
            failure
        })
    }

    /// The connection, made again if need be. Waits through the first failures, for Redis may just be
    /// starting anew.
    pub(super) async fn way(self: &Arc<Self>) -> Result<Way, Error> {
        loop {
            let (run, failure) = {
                let mut ways = self.lock();
                if let Some((way, _)) = &ways.open {
                    return Ok(way.clone());
                }
                let failure = ways.failure.clone();
                let paused = failure.as_ref().filter(|(_, _, retry_at)| Instant::now() < *retry_at);
                let run = match (ways.flight.running(), paused) {
                    (Some(run), _) => Ok(run),
                    (None, Some((why, in_a_row, _))) if *in_a_row > GRACE => {
                        return Err(why.clone());
                    }
                    (None, Some((_, _, retry_at))) => Err(*retry_at),
                    (None, None) => {
                        let link = self.clone();
                        Ok(ways.flight.start(async move { link.connect().await }))
                    }
                };
                (run, failure)
            };
            let run = match run {
                Ok(run) => run,
                Err(retry_at) => {
                    sleep_until(retry_at.into()).await;
                    continue;
                }
            };
            let (patience, why) = match failure {
                Some((why, in_a_row, _)) if in_a_row > 1 => (IMPATIENCE, why),
                _ => (PATIENCE, Failure::late().error),
            };
            match timeout(patience, run).await {
                Ok(Err(why)) if self.fails_long() => return Err(why),
                Ok(Err(_)) => {}
                Ok(way) => return way,
                Err(_) => return Err(why),
            }
        }
    }

    fn fails_long(&self) -> bool {
        self.lock().failure.as_ref().is_some_and(|(_, in_a_row, _)| *in_a_row > GRACE)
    }

    async fn connect(self: Arc<Self>) -> Result<Way, Error> {
        let number = {
            let mut ways = self.lock();
            ways.tried += 1;
            ways.tried
        };
        let link = Arc::downgrade(&self);
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(None)
            .set_push_sender(move |push: PushInfo| {
                if let (PushKind::Disconnection, Some(link)) = (push.kind, link.upgrade()) {
                    let why = "Redis: it closed the connection".to_owned();
                    link.discard(number, Error::Unusable(why));
                }
                Ok::<(), Infallible>(())
            });
        let met = timeout(PATIENCE, async {
            let mut connection = self.made(&settings).await?;
            match self.meet.invoke_async(&mut connection).await {
                Ok(is_another) => Ok((connection, is_another)),
                Err(error) => Err(Failure::of(&error).error),
            }
        });
        let made = met.await.unwrap_or_else(|_| Err(Failure::late().error));
        if let Ok((_, true)) = made {
            tracing::warn!(
                "Redis was restarted or replaced; refusing writes until every process has checked that nothing is missing"
            );
        }
        let mut ways = self.lock();
        match made {
            Ok((connection, _)) => {
                let way = (number, connection);
                ways.open = Some((way.clone(), Instant::now()));
                drop(ways);
                self.changed.send_replace(());
                Ok(way)
            }
            Err(why) => {
                ways.fail(why.clone(), Duration::ZERO);
                Err(why)
            }
        }
    }

    /// A connection of one's own, for what would hold up everything behind it.
    pub(super) async fn made(
        &self,
        settings: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Error> {
        let made = self.client.get_multiplexed_async_connection_with_config(settings);
        match timeout(PATIENCE, made).await {
            Ok(made) => made.map_err(|error| Failure::of(&error).error),
            Err(_) => Err(Failure::late().error),
        }
    }

    /// Uses a connection no longer, if it is the one in use.
    pub(super) fn discard(&self, number: u64, why: Error) {
        let mut ways = self.lock();
        if let Some((_, since)) = ways.open.take_if(|((used, _), _)| *used == number) {
            ways.fail(why, since.elapsed());
        }
    }

    /// Wakes up when the way to Redis, or what is there, has become another.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What is at Redis has become another.
    pub(super) fn tell(&self) {
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, Ways> {
        // Every change is complete before anything can panic.
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows no password.
impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

fn tcp() -> TcpSettings {
    let tcp = TcpSettings::default().set_nodelay(true);
    // A host that vanished never closes its connections.
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(2 * PATIENCE);
    tcp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second_and_are_apart() {
        assert_eq!((pause(0), pause(1)), (Duration::ZERO, Duration::ZERO));
        for in_a_row in 2..50 {
            let most = (FIRST_PAUSE * 2_u32.pow(in_a_row.min(10) - 2)).min(LONGEST_PAUSE);
            assert!((most / 2..=most).contains(&pause(in_a_row)), "{in_a_row}");
        }
        let pauses: Vec<_> = (0..20).map(|_| pause(20)).collect();
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "of random length");
    }
}
