//! Kills the gateway repeatedly while events arrive.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    gateway::{Gateway, LONG, MOMENT},
    print_figures, random,
    redis::RedisServer,
    sender::WeChat,
    watcher::Watcher,
};

/// The number of kills.
const KILLS: u32 = 16;
/// The number of pushes that wait to be sent. 32 of them are running at once.
const WAITING: usize = 200;

#[tokio::test]
async fn acknowledged_events_survive_kills_with_sqlite() {
    pour("sqlite", None, false).await;
}

#[tokio::test]
async fn acknowledged_events_survive_kills_with_redis() {
    pour("redis", Some(RedisServer::start(true).await), false).await;
}

#[tokio::test]
async fn acknowledged_events_survive_kills_of_redis() {
    pour("redis, killed too", Some(RedisServer::start(true).await), true).await;
}

async fn pour(name: &str, mut redis: Option<RedisServer>, kill_redis: bool) {
    let began = Instant::now();
    let mut random = random(name);
    let wechat = WeChat::start().await;
    let state = redis.as_ref().map_or("sqlite:{folder}/state.db".to_owned(), RedisServer::url);
    let mut gateway = Gateway::start(wechat.address, &state).await;
    wechat.push_to(&gateway);
    let watcher = Watcher::start(&gateway, random.fork());
    let feeding = {
        let simulator = WeChat { simulator: wechat.simulator.clone(), address: wechat.address };
        tokio::spawn(async move {
            loop {
                let (sent, waiting) = simulator.waiting();
                for audit_id in sent..sent + WAITING.saturating_sub(waiting) {
                    simulator.push(1 + audit_id as u64);
                }
                sleep(5 * MOMENT).await;
            }
        })
    };

    let (mut kills, mut redis_kills) = (0, 0);
    while kills + redis_kills < KILLS {
        // Most processes are killed in the middle of their work, and one in four before it begins.
        if random.u32(..4) > 0 {
            let before = answered(&wechat);
            let end = Instant::now() + LONG;
            while answered(&wechat) == before {
                assert!(Instant::now() < end, "nothing is answered: {:?}", gateway.readyz().await);
                gateway.revive();
                sleep(MOMENT).await;
            }
        }
        sleep(Duration::from_millis(random.u64(..500))).await;
        match &mut redis {
            Some(redis) if kill_redis && random.bool() => {
                redis.kill();
                sleep(Duration::from_millis(random.u64(..300))).await;
                redis.restart().await;
                redis_kills += 1;
            }
            _ => {
                gateway.kill();
                gateway.spawn();
                kills += 1;
            }
        }
    }
    gateway.kill();
    gateway.spawn();
    gateway.serves().await;
    feeding.abort();
    let end = Instant::now() + LONG;
    while wechat.waiting().1 > 0 {
        assert!(Instant::now() < end, "{:?} are not answered", wechat.waiting());
        sleep(MOMENT).await;
    }

    let answered = wechat.answered();
    let log = gateway.log_of_events().await;
    let seen = watcher.finish(log.len(), LONG).await;
    let mut messages = BTreeMap::<_, usize>::new();
    for event in &log {
        *messages.entry(event.wechat_message.as_str()).or_default() += 1;
    }
    let doubled = messages.values().filter(|count| **count > 1).count();
    let lost = answered.iter().filter(|message| !messages.contains_key(message.as_str())).count();
    print_figures(&format!(
        "{name}: {kills} kills of the gateway, {redis_kills} of Redis, {} sent in {} attempts, {} \
         answered, {} in the log, {} watched in {} streams, {} again, doubled={doubled}, \
         lost={lost}, {:.0?}",
        wechat.waiting().0,
        wechat.simulator.pushes().iter().map(|push| push.attempts.len()).sum::<usize>(),
        answered.len(),
        log.len(),
        seen.events.len(),
        seen.begun,
        seen.again,
        began.elapsed(),
    ));
    assert!(answered.len() > 100, "too few to mean anything");
    assert_eq!((doubled, lost), (0, 0));
    let ids: Vec<_> = log.iter().map(|event| event.event_id.clone()).collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "every id is another");
    assert_eq!(seen.failed, None);
    assert!(seen.events == ids, "the watcher saw all, in the order of the log");
    let positions: Vec<_> = (1..=log.len() as u64).collect();
    assert_eq!(seen.positions, positions, "there is no gap");
}

/// Returns the number of pushes that were answered with `success`.
fn answered(wechat: &WeChat) -> usize {
    let (sent, waiting) = wechat.waiting();
    sent - waiting
}
