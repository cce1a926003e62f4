//! The signals that stop a command: SIGTERM, SIGQUIT and SIGINT (Ctrl-C).

use std::{future::Future, io, sync::Arc};

use tokio::sync::Notify;

use crate::telemetry;

/// The exit code after a second signal, which stops the process at once.
const SECOND_SIGNAL: i32 = 130;

/// Returns a future that completes with the first signal from now on. The second signal ends the
/// process.
pub(super) fn stop() -> io::Result<impl Future<Output = ()>> {
    let mut signals = Signals::new()?;
    Ok(async move {
        signals.next().await;
        tokio::spawn(async move {
            signals.next().await;
            std::process::exit(SECOND_SIGNAL);
        });
    })
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// Returns a notice of each SIGHUP from now on.
#[cfg(unix)]
pub(super) fn hangup() -> io::Result<Arc<Notify>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut signals = signal(SignalKind::hangup())?;
    let notice = Arc::<Notify>::default();
    let notify = notice.clone();
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            notify.notify_one();
        }
    });
    Ok(notice)
}

/// Returns a notice that never comes, because this system has no such signal.
#[cfg(not(unix))]
pub(super) fn hangup() -> io::Result<Arc<Notify>> {
    Ok(Arc::default())
}

/// Ignores all other signals that would end the process, and logs each. Rust itself ignores SIGPIPE.
#[cfg(unix)]
pub(super) fn ignore_others() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let named = [
        ("SIGUSR1", SignalKind::user_defined1(), "it has no meaning for this program"),
        ("SIGUSR2", SignalKind::user_defined2(), "it has no meaning for this program"),
        ("SIGALRM", SignalKind::alarm(), "it has no meaning for this program"),
        ("SIGXCPU", SignalKind::from_raw(24), "the process used up its CPU time"),
        ("SIGXFSZ", SignalKind::from_raw(25), "a file reached its maximum size"),
        ("SIGVTALRM", SignalKind::from_raw(26), "it has no meaning for this program"),
        ("SIGPROF", SignalKind::from_raw(27), "it has no meaning for this program"),
        #[cfg(target_os = "linux")]
        ("SIGIO", SignalKind::io(), "it has no meaning for this program"),
        #[cfg(target_os = "linux")]
        ("SIGPWR", SignalKind::from_raw(30), "it has no meaning for this program"),
    ];
    for (name, kind, why) in named {
        let mut signals = signal(kind)?;
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if let Some(unlogged) = telemetry::may_log("ignored a signal", name) {
                    tracing::warn!(signal = name, unlogged, "ignored a signal: {why}");
                }
            }
        });
    }
    Ok(())
}

/// Does nothing, because this system has no such signals.
#[cfg(not(unix))]
pub(super) fn ignore_others() -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // If Ctrl-C cannot be awaited, only killing the process ends it.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
