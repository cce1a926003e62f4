//! A rolling upgrade: gateways of the previous release and of this version on one Redis.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    gateway::{Gateway, KEYS, PROGRAM},
    random,
    redis::RedisServer,
    sender::WeChat,
    work::{EXPIRY, Faults, Work},
};

/// The gateways.
const GATEWAYS: usize = 3;
/// The events and the writes that are acknowledged between two steps.
const WORK: usize = 10;

/// The gateways change one after another, and the first one changes back once. The previous release cannot read sealed
/// secrets, so this version seals them only when no gateway of that release is left.
const STEPS: [(usize, Version); 8] = [
    (0, Version::This),
    (0, Version::Previous),
    (0, Version::This),
    (1, Version::This),
    (2, Version::This),
    (0, Version::Sealing),
    (1, Version::Sealing),
    (2, Version::Sealing),
];

#[derive(Clone, Copy)]
enum Version {
    Previous,
    /// This version, which reads sealed secrets and writes plain ones.
    This,
    /// This version with its defaults.
    Sealing,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_upgrade_loses_nothing() {
    let previous = previous();
    let (redis, wechat) = (RedisServer::start(true).await, WeChat::start().await);
    let mut random = random("upgrade");
    let mut gateways: [_; GATEWAYS] =
        std::array::from_fn(|_| Gateway::new(wechat.address, &redis.url()));
    for gateway in &mut gateways {
        gateway.becomes(&previous, "");
        gateway.spawn();
    }
    for gateway in &mut gateways {
        gateway.serves().await;
    }
    let plain = format!("{KEYS}\nplain_secrets = true");
    let work = Work::start(&wechat, &gateways.each_ref(), &mut random);
    let mut faults = Faults::default();
    work.progresses(WORK).await;
    for (number, version) in STEPS {
        let gateway = &mut gateways[number];
        gateway.signal("TERM");
        assert_eq!(gateway.ends().await, Some(0));
        match version {
            Version::Previous => gateway.becomes(&previous, ""),
            Version::This => gateway.becomes(Path::new(PROGRAM), &plain),
            Version::Sealing => gateway.becomes(Path::new(PROGRAM), KEYS),
        }
        gateway.spawn();
        gateway.serves().await;
        faults.kills += 1;
        // The tokens of one version reach the other.
        wechat.simulator.clock().advance(EXPIRY);
        faults.expiries += 1;
        work.progresses(WORK).await;
    }
    let verdict = work.settle(&wechat, &mut gateways[0], &faults).await;
    verdict.print("upgrade");
    verdict.is_well();
}

/// Returns the program of the previous release.
fn previous() -> PathBuf {
    let target = Path::new(PROGRAM).ancestors().nth(2).expect("a folder of a folder");
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/previous/COMMIT");
    let expected = fs::read_to_string(expected).expect("the commit of the previous release");
    let built = fs::read_to_string(target.join("previous/COMMIT")).unwrap_or_default();
    assert_eq!(built, expected, "the previous release is not built: run scripts/previous");
    target.join("previous/wechat-store-gateway")
}
