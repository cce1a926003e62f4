//! When to stop: on SIGTERM, as a supervisor sends it, on SIGQUIT, or on Ctrl-C.

use std::{future::Future, io};

use crate::telemetry;

/// A second signal means that there is no time to wait.
const SECOND_SIGNAL: i32 = 130;

/// Listens from now on. The answer ends with the first signal; the second ends the process.
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

/// Ignores from now on, with a line in the log, all other signals that would end the process at once.
/// Rust itself ignores SIGPIPE.
#[cfg(unix)]
pub(super) fn ignore_others() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let named = [
        ("SIGHUP", SignalKind::hangup(), "the settings are read only at the start"),
        ("SIGUSR1", SignalKind::user_defined1(), "it has no meaning here"),
        ("SIGUSR2", SignalKind::user_defined2(), "it has no meaning here"),
        ("SIGALRM", SignalKind::alarm(), "it has no meaning here"),
        ("SIGXCPU", SignalKind::from_raw(24), "the process has used its time"),
        ("SIGXFSZ", SignalKind::from_raw(25), "a file is as long as the process may make it"),
        ("SIGVTALRM", SignalKind::from_raw(26), "it has no meaning here"),
        ("SIGPROF", SignalKind::from_raw(27), "it has no meaning here"),
        #[cfg(target_os = "linux")]
        ("SIGIO", SignalKind::io(), "it has no meaning here"),
        #[cfg(target_os = "linux")]
        ("SIGPWR", SignalKind::from_raw(30), "it has no meaning here"),
    ];
    for (name, kind, why) in named {
        let mut signals = signal(kind)?;
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if let Some(unlogged) = telemetry::seldom("ignored a signal", name) {
                    tracing::warn!(signal = name, unlogged, "ignored a signal: {why}");
                }
            }
        });
    }
    Ok(())
}

/// There are none.
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
        // Where there is no Ctrl-C to wait for, only killing the process ends it.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
