//! The connection to Redis that all operations share, and its renewal.
//!
//! A failure has no lasting effect: the next operation after the pause makes a new attempt. There
//! is one attempt at a time. The pauses grow to a second and have a random length, so that many
//! processes do not connect at once.

use std::{
    convert::Infallible,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ::redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, PushInfo, PushKind, RedisError, Script,
    ScriptInvocation, ServerErrorKind, Value, aio::MultiplexedConnection,
};
use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};

use super::{
    failure::Failure,
    place::{Place, Primary},
};
use crate::{
    state::Error,
    util::{lock, single_flight::SingleFlight},
};

/// The limit for an answer, including connecting.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
/// How long an operation waits for an attempt to connect after a failed one.
const CONNECT_WAIT: Duration = Duration::from_millis(500);
/// A connection that lived this long was good, so the next attempt is made immediately.
const LIVED: Duration = Duration::from_secs(5);
/// Operations wait through this many failures in a row, which takes about half a second.
const GRACE: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection and its number.
type Numbered = (u64, MultiplexedConnection);

/// The link to a Redis.
pub(super) struct Link {
    place: Place,
    /// Records the identity of this Redis, and returns true if it changed.
    identify: ScriptInvocation<'static>,
    connections: Mutex<Connections>,
    /// Notifies waiting tasks that the connection leads elsewhere.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Connections {
    open: Option<Open>,
    /// The number of attempts to connect.
    tried: u64,
    connecting: SingleFlight<Result<Numbered, Error>>,
    /// The last failure, the number of failures in a row, and the time of the next attempt.
    failure: Option<(Error, u32, Instant)>,
}

/// The connection in use.
struct Open {
    connected: Numbered,
    primary: Primary,
    since: Instant,
}

impl Connections {
    /// Delays the next attempt. The first attempt after a good connection is not delayed.
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
    /// Creates a link without connecting. Every new connection first runs `identify` with its
    /// arguments.
    pub(super) fn new(place: Place, identify: ScriptInvocation<'static>) -> Arc<Self> {
        let changed = watch::Sender::new(());
        Arc::new(Self { place, identify, connections: Mutex::default(), changed })
    }

    /// Runs a script, and repeats it on another connection if that may help. If the first run took
    /// effect, this equals a repetition by the caller.
    pub(super) async fn query(
        self: &Arc<Self>,
        script: &Script,
        command: &Cmd,
    ) -> Result<Value, Error> {
        let used = AtomicU64::new(0);
        let answer = timeout(TIMEOUT, async {
            match self.attempt(script, command, &used).await {
                Err(Failure { reconnect: true, .. }) => self.attempt(script, command, &used).await,
                answer => answer,
            }
        });
        match answer.await {
            Ok(answer) => answer.map_err(|failure| failure.error),
            Err(_) => {
                let late = self.late();
                self.discard(used.load(Ordering::Relaxed), late.clone());
                Err(late)
            }
        }
    }

    /// Returns the error for an answer that did not arrive in time. Without a connection, it is the reason why there
    /// is none.
    pub(super) fn late(&self) -> Error {
        let connections = self.lock();
        let failure = connections.failure.as_ref().filter(|_| connections.open.is_none());
        failure.map_or_else(|| Failure::late().error, |(why, ..)| why.clone())
    }

    async fn attempt(
        self: &Arc<Self>,
        script: &Script,
        command: &Cmd,
        used: &AtomicU64,
    ) -> Result<Value, Failure> {
        let connected = self.connected().await.map_err(|error| Failure { error, reconnect: false });
        let (number, mut connection) = connected?;
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
            self.follow(number, &error);
            let failure = Failure::of(&error);
            if failure.reconnect {
                self.discard(number, failure.error.clone());
            }
            failure
        })
    }

    /// Returns the connection, and renews it if necessary. Waits through the first failures,
    /// because Redis may be restarting.
    pub(super) async fn connected(self: &Arc<Self>) -> Result<Numbered, Error> {
        loop {
            let (run, failure) = {
                let mut connections = self.lock();
                if let Some(Open { connected, .. }) = &connections.open {
                    return Ok(connected.clone());
                }
                let failure = connections.failure.clone();
                let paused = failure.as_ref().filter(|(_, _, retry_at)| Instant::now() < *retry_at);
                let run = match (connections.connecting.running(), paused) {
                    (Some(run), _) => Ok(run),
                    (None, Some((why, in_a_row, _))) if *in_a_row > GRACE => {
                        return Err(why.clone());
                    }
                    (None, Some((_, _, retry_at))) => Err(*retry_at),
                    (None, None) => {
                        let link = self.clone();
                        Ok(connections.connecting.start(async move { link.connect().await }))
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
            let (limit, why) = match failure {
                Some((why, in_a_row, _)) if in_a_row > 1 => (CONNECT_WAIT, why),
                _ => (TIMEOUT, Failure::late().error),
            };
            match timeout(limit, run).await {
                Ok(Err(why)) if self.fails_long() => return Err(why),
                Ok(Err(_)) => {}
                Ok(connected) => return connected,
                Err(_) => return Err(why),
            }
        }
    }

    fn fails_long(&self) -> bool {
        self.lock().failure.as_ref().is_some_and(|(_, in_a_row, _)| *in_a_row > GRACE)
    }

    async fn connect(self: Arc<Self>) -> Result<Numbered, Error> {
        let number = {
            let mut connections = self.lock();
            connections.tried += 1;
            connections.tried
        };
        let link = Arc::downgrade(&self);
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(None)
            .set_push_sender(move |push: PushInfo| {
                if let (PushKind::Disconnection, Some(link)) = (push.kind, link.upgrade()) {
                    let why = "Redis: it closed the connection".to_owned();
                    link.discard(number, Error::Unusable(why));
                }
                Ok::<(), Infallible>(())
            });
        let met = timeout(TIMEOUT, async {
            let primary = self.place.find().await?;
            let mut connection = primary.connect(&settings).await?;
            match self.identify.invoke_async(&mut connection).await {
                Ok(is_another) => Ok((primary, connection, is_another)),
                Err(error) => {
                    self.place.follow(&error, &primary);
                    Err(Failure::of(&error).error)
                }
            }
        });
        let made = met.await.unwrap_or_else(|_| Err(Failure::late().error));
        if let Ok((.., true)) = made {
            tracing::warn!(
                "Redis was restarted or replaced; refusing writes until every process has checked \
                 that nothing is missing"
            );
        }
        let mut connections = self.lock();
        match made {
            Ok((primary, connection, _)) => {
                let connected = (number, connection);
                let since = Instant::now();
                connections.open = Some(Open { connected: connected.clone(), primary, since });
                drop(connections);
                self.changed.send_replace(());
                Ok(connected)
            }
            Err(why) => {
                connections.fail(why.clone(), Duration::ZERO);
                Err(why)
            }
        }
    }

    /// Opens a separate connection for a command that would block all commands behind it. It leads to the server
    /// of the connection with this number.
    ///
    /// Fails if that connection is no longer in use.
    pub(super) async fn open_beside(
        &self,
        number: u64,
        settings: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Error> {
        match self.primary(number) {
            Some(primary) => primary.connect(settings).await,
            None => Err(Error::Unusable("Redis: the connection to it was lost".to_owned())),
        }
    }

    /// Notes the node to which a node of a cluster referred on the connection with this number.
    pub(super) fn follow(&self, number: u64, error: &RedisError) {
        if let Some(primary) = self.primary(number) {
            self.place.follow(error, &primary);
        }
    }

    fn primary(&self, number: u64) -> Option<Primary> {
        let connections = self.lock();
        let open = connections.open.as_ref().filter(|open| open.connected.0 == number);
        open.map(|open| open.primary.clone())
    }

    /// Discards a connection if it is the one in use.
    pub(super) fn discard(&self, number: u64, why: Error) {
        let mut connections = self.lock();
        if let Some(open) = connections.open.take_if(|open| open.connected.0 == number) {
            connections.fail(why, open.since.elapsed());
        }
    }

    /// Returns a receiver that wakes when the connection or the state behind it changes.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Wakes all receivers, because the state at Redis changed.
    pub(super) fn notify(&self) {
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        lock(&self.connections)
    }
}

/// Hides the password.
impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second_with_jitter() {
        assert_eq!((pause(0), pause(1)), (Duration::ZERO, Duration::ZERO));
        for in_a_row in 2..50 {
            let most = (FIRST_PAUSE * 2_u32.pow(in_a_row.min(10) - 2)).min(LONGEST_PAUSE);
            assert!((most / 2..=most).contains(&pause(in_a_row)), "{in_a_row}");
        }
        let pauses: Vec<_> = (0..20).map(|_| pause(20)).collect();
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "of random length");
    }
}
