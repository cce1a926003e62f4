//! Recovers pending writes in the background: those with an unknown outcome that no caller repeats.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::{Observation, Recovery, TIME_LIMIT};
use crate::{
    call::Error,
    context::Context,
    events::Audits,
    journal::WriteRecord,
    state::{Write, from_millis},
    util::id::AppId,
};

/// How often the journal is checked for writes with an unknown outcome.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// The pause after the first question about a write. It doubles with each one up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// A write that WeChat does not show after this time was not executed, although no caller asks: lists may
/// lag.
const SHOWN_WITHIN: Duration = Duration::from_secs(600);

/// Asks about unknown writes until `stop`: at once, then ever more rarely, and sooner when an event of
/// their account arrives.
pub(crate) async fn recover_pending(recovery: Recovery, audits: Audits, stop: CancellationToken) {
    let recovering = async {
        let mut asked = HashMap::new();
        loop {
            let pushed = audits.pushed();
            if let Err(error) = recovery.recover_due(&mut asked, &pushed).await {
                tracing::warn!("failed to recover writes with an unknown outcome: {error}");
            }
            recovery.0.calls.clock().sleep(CHECK_EVERY).await;
        }
    };
    stop.run_until_cancelled(recovering).await;
}

/// When WeChat was asked about a write, and the pause after it.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Instant,
    pause: Duration,
}

impl Recovery {
    async fn recover_due(
        &self,
        asked: &mut HashMap<String, Asked>,
        pushed: &HashSet<AppId>,
    ) -> Result<(), Error> {
        let unknown = self.0.journal.unknown().await?;
        let still = HashSet::<_>::from_iter(unknown.iter().map(|write| write.write_id.as_str()));
        asked.retain(|write_id, _| still.contains(&**write_id));
        let (now, wall) = (self.0.calls.clock().now(), self.0.calls.clock().wall());
        let mut due = HashMap::<_, Vec<_>>::new();
        for write in unknown {
            if self.0.calls.is_paused(write.app_id.as_str()).await {
                continue;
            }
            // An event may be about what is reviewed.
            let has_event = || pushed.contains(&write.app_id) && is_reviewed(&write);
            let before = asked.get(&write.write_id).copied();
            let Some(pause) = next_pause(before, now, has_event) else { continue };
            asked.insert(write.write_id.clone(), Asked { at: now, pause: pause.max(write.rest) });
            due.entry(write.app_id.clone()).or_default().push(write);
        }
        // WeChat may be slow for one account, and one account may have many writes.
        let accounts = due.into_values().map(|writes| async move {
            for write in writes {
                self.recover_one(&write, now, wall).await;
            }
        });
        join_all(accounts).await;
        Ok(())
    }

    async fn recover_one(&self, write: &Write, now: Instant, wall: SystemTime) {
        let Write { write_id, method, .. } = write;
        let ctx = Context::internal(self.0.calls.clock().now() + TIME_LIMIT);
        let recovered = async {
            let observation = self.recover(&ctx, write, now).await?;
            if observation == Observation::NotExecuted && is_shown_by(write.sent, wall) {
                tracing::info!(
                    write_id,
                    method,
                    "no trace of the write found at WeChat, recorded as not executed"
                );
                self.0.journal.close_as_not_executed(write_id).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = recovered.await {
            tracing::warn!(write_id, "failed to query WeChat about a write: {error}");
        }
    }
}

/// Returns the pause after a question that is due at `now`, or `None` if it is not due.
fn next_pause(
    before: Option<Asked>,
    now: Instant,
    has_event: impl FnOnce() -> bool,
) -> Option<Duration> {
    let Some(Asked { at, pause }) = before else { return Some(FIRST_PAUSE) };
    // A storm of events is one reason for one question.
    let pause = if has_event() { FIRST_PAUSE.min(pause) } else { pause };
    (now >= at + pause).then(|| (2 * pause).min(LONGEST_PAUSE))
}

/// Returns whether WeChat would show a write that was sent then, in milliseconds since 1970.
fn is_shown_by(sent: u64, now: SystemTime) -> bool {
    now.duration_since(from_millis(sent)).is_ok_and(|since| since >= SHOWN_WITHIN)
}

/// Returns whether an event may come of a write.
fn is_reviewed(write: &Write) -> bool {
    WriteRecord::parse(&write.record).is_ok_and(|record| record.submission.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_doubles_until_an_event_shortens_it() {
        let at = Instant::now();
        let asked = |pause| Some(Asked { at, pause });
        let second = Duration::from_secs(1);
        assert_eq!(next_pause(None, at, || false), Some(FIRST_PAUSE));
        assert_eq!(next_pause(asked(FIRST_PAUSE), at + FIRST_PAUSE - second, || true), None);
        assert_eq!(
            next_pause(asked(FIRST_PAUSE), at + FIRST_PAUSE, || false),
            Some(2 * FIRST_PAUSE)
        );
        let hour = next_pause(asked(LONGEST_PAUSE), at + LONGEST_PAUSE, || false);
        assert_eq!(hour, Some(LONGEST_PAUSE));
        let early = at + FIRST_PAUSE;
        assert_eq!(next_pause(asked(LONGEST_PAUSE), early, || false), None);
        assert_eq!(next_pause(asked(LONGEST_PAUSE), early, || true), Some(2 * FIRST_PAUSE));
    }

    #[test]
    fn absence_counts_ten_minutes_after_sending() {
        let sent = 5_000;
        let after = |time| from_millis(sent) + time;
        assert!(!is_shown_by(sent, after(SHOWN_WITHIN - Duration::from_secs(1))));
        assert!(is_shown_by(sent, after(SHOWN_WITHIN)));
        assert!(!is_shown_by(sent, from_millis(0)), "clocks differ");
    }
}
