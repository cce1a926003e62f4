//! The time of the last push of each account, for operators.

use std::{collections::HashMap, sync::Mutex, time::SystemTime};

use moka::policy::EvictionPolicy;

use crate::util::{id::AppId, lock};

/// The authorizers whose last push is kept. The one without a push for the longest time leaves first.
const MOST_AUTHORIZERS: u64 = 10_000;

/// The times of the last pushes, in this process.
#[derive(Debug)]
pub(super) struct LastPushes {
    /// Those of the accounts and platforms of the settings, which are few.
    of_settings: Mutex<HashMap<AppId, SystemTime>>,
    of_authorizers: moka::sync::Cache<AppId, SystemTime>,
}

impl Default for LastPushes {
    fn default() -> Self {
        let of_authorizers = moka::sync::Cache::builder()
            .max_capacity(MOST_AUTHORIZERS)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { of_settings: Mutex::default(), of_authorizers }
    }
}

impl LastPushes {
    /// Notes a push for an account or platform of the settings.
    pub(super) fn note(&self, app_id: &AppId, time: SystemTime) {
        lock(&self.of_settings).insert(app_id.clone(), time);
    }

    /// Notes a push for an authorizer.
    pub(super) fn note_authorizer(&self, app_id: &AppId, time: SystemTime) {
        self.of_authorizers.insert(app_id.clone(), time);
    }

    /// Returns the time of the last push. `None` if none is known.
    pub(super) fn of(&self, app_id: &AppId) -> Option<SystemTime> {
        let found = lock(&self.of_settings).get(app_id).copied();
        found.or_else(|| self.of_authorizers.get(app_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_of_many_authorizers_stay_bounded() {
        let pushes = LastPushes::default();
        let app_id = |number: u64| AppId::from(format!("wx{number:016x}"));
        let (own, time) = (app_id(u64::MAX), SystemTime::UNIX_EPOCH);
        pushes.note(&own, time);
        for number in 0..MOST_AUTHORIZERS + 1_000 {
            pushes.note_authorizer(&app_id(number), time);
        }
        pushes.of_authorizers.run_pending_tasks();
        assert_eq!(pushes.of_authorizers.entry_count(), MOST_AUTHORIZERS);
        let newest = app_id(MOST_AUTHORIZERS + 999);
        assert_eq!([&own, &newest].map(|app_id| pushes.of(app_id)), [Some(time); 2]);
        assert_eq!(pushes.of(&app_id(0)), None, "the oldest one left");
    }
}
