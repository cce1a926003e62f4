//! A Redis as companies run it: with TLS, with a user that may do little, behind sentinels, and as a cluster.

use std::{fs, path::Path, sync::Arc, time::Duration};

use tokio::time::sleep;
use tonic::Code;
use wechat_store_gateway::state::{Appended, Error, Secrets, State};

use crate::{
    redis::{SOON, append_when_ready, event, pass_for_writes, positions, try_open},
    servers::{Certificates, Cluster, Options, RedisServer, Sentinels},
    state::{Backend, conformance},
    support::{App, reason, within},
};

/// Returns why the state at this URL cannot be opened.
async fn refused(url: &str, more: &str) -> String {
    let error = within(SOON, try_open(url, more)).await.expect_err(url);
    let Error::Unusable(why) = error else { panic!("{url}: {error:?}") };
    assert!(!why.contains("hush"), "{why}");
    why
}

/// Returns a state with more lines in its section of the settings.
async fn opened(url: &str, more: &str) -> Arc<dyn State> {
    Arc::new(within(SOON, try_open(url, more)).await.expect(url))
}

/// Waits until a gateway sends a write, which needs its state. WeChat refuses it, because it has no such store.
async fn writes(app: &App) {
    let sent = async {
        loop {
            match reason(&app.write().await.expect_err("no store")) {
                (Code::NotFound, _) => break,
                (Code::Unavailable, _) => sleep(Duration::from_millis(50)).await,
                other => panic!("{other:?}"),
            }
        }
    };
    within(SOON, sent).await;
}

// === TLS ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_with_tls_needs_its_authority() {
    let certificates = Certificates::new(false);
    let server = RedisServer::start_with(true, &[], Some(&certificates)).await;
    let app = App::with_state(&server.tls_url(), &certificates.section(false)).await;
    writes(&app).await;

    let other = Certificates::new(false);
    for more in [String::new(), other.section(false)] {
        let why = refused(&server.tls_url(), &more).await;
        assert!(why.contains("an unknown CA"), "{why}");
    }
    let why = refused(&server.url().replace("redis:", "rediss:"), "").await;
    // Redis waits for the end of a command, or answers that there is none.
    assert!(why.contains("in time") || why.contains("does not use TLS"), "{why}");
    // Redis closes the connection, and the cause depends on the moment.
    refused(&server.tls_url().replace("rediss:", "redis:"), "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_with_mutual_tls_needs_a_certificate() {
    let certificates = Certificates::new(true);
    let server = RedisServer::start_with(true, &[], Some(&certificates)).await;
    let app = App::with_state(&server.tls_url(), &certificates.section(true)).await;
    writes(&app).await;

    let why = refused(&server.tls_url(), &certificates.section(false)).await;
    assert!(why.contains("requires a certificate"), "{why}");
    // A certificate of another CA.
    let other = Certificates::new(true);
    for name in ["client.pem", "client.key"] {
        fs::copy(other.path(name), certificates.path(name)).expect("writable");
    }
    let why = refused(&server.tls_url(), &certificates.section(true)).await;
    assert!(why.contains("refuses the certificate"), "{why}");
}

#[tokio::test]
async fn wrong_certificate_of_redis_is_refused() {
    type Change = fn(&mut rcgen::CertificateParams);
    let expired: Change = |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let renamed: Change = |params| {
        params.subject_alt_names =
            vec![rcgen::SanType::DnsName("other".try_into().expect("a name"))];
    };
    for (change, expected) in [(expired, "has expired"), (renamed, "for another name")] {
        let certificates = Certificates::changed(false, change);
        let server = RedisServer::start_with(true, &[], Some(&certificates)).await;
        let why = refused(&server.tls_url(), &certificates.section(false)).await;
        assert!(why.contains(expected), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaced_files_are_used_without_restart() {
    let certificates = Certificates::new(true);
    let mut server = RedisServer::start_with(true, &[], Some(&certificates)).await;
    let state = opened(&server.tls_url(), &certificates.section(true)).await;
    assert_eq!(state.append(event(1)).await, Ok(Appended::New(1)));
    server.kill();
    let renewed = Certificates::new(true);
    for name in ["ca.pem", "server.pem", "server.key", "client.pem", "client.key"] {
        fs::copy(renewed.path(name), certificates.path(name)).expect("writable");
    }
    server.restart().await;
    assert_eq!(append_when_ready(&state, 2).await, Appended::New(2));
}

// === Users and passwords ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_password_is_read_again() {
    let server = RedisServer::start_with(true, &["requirepass hush-1"], None).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    fs::write(&file, "hush-1\n").expect("writable");
    let password = format!("password = {{ file = {file:?} }}");
    let app = App::with_state(&server.url(), &password).await;
    writes(&app).await;

    // Redis keeps the connections of the old password, so they are cut.
    server.command("CONFIG SET requirepass hush-2\r\nCLIENT KILL TYPE normal").await;
    let told = async {
        loop {
            let (code, why) = app.ask("/readyz").await;
            match code {
                503 => break why,
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let why = within(SOON, told).await;
    assert!(why.contains("refuses the user") && !why.contains("hush"), "{why}");
    fs::write(&file, "hush-2\n").expect("writable");
    writes(&app).await;
}

#[tokio::test]
async fn wrong_login_is_refused_with_its_cause() {
    let server = RedisServer::start_with(false, &["requirepass right"], None).await;
    let url = |login: &str| server.url().replace("//", &format!("//{login}@"));
    for (url, more, expected) in [
        (server.url(), "", "requires a password"),
        (url(":hush"), "", "refuses the user"),
        (url("hush:right"), "", "refuses the user"),
        (server.url(), "password = \"hush\"", "refuses the user"),
        (url("hush"), "password = \"right\"", "refuses the user"),
    ] {
        let why = refused(&url, more).await;
        assert!(why.contains(expected), "{url} {more}: {why}");
    }
    opened(&url("default"), "password = \"right\"").await;
}

/// Returns the line of an access list that the documentation recommends.
fn documented_user() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/state.md");
    let text = fs::read_to_string(path).expect("the documentation");
    let mut lines = text.lines().skip_while(|line| !line.starts_with("user gateway "));
    let line = lines.by_ref().take_while(|line| *line != "```").collect::<Vec<_>>().join(" ");
    assert!(line.contains("PASSWORD") && line.contains("+evalsha"), "{line}");
    line.replace("PASSWORD", "hush")
}

/// A Redis with TLS for a user that may do only what the documentation lists.
struct Restricted {
    certificates: Certificates,
    server: RedisServer,
    state: Option<Arc<dyn State>>,
}

impl Restricted {
    async fn open(&mut self) {
        let url = self.server.tls_url().replace("//", "//gateway@");
        let more = format!("password = \"hush\"\n{}", self.certificates.section(true));
        self.state = Some(opened(&url, &more).await);
    }

    async fn empty(&mut self) {
        self.state = None;
        self.server.command("FLUSHALL").await;
        self.open().await;
    }
}

impl Backend for Restricted {
    fn state(&self) -> Arc<dyn State> {
        self.state.clone().expect("open")
    }

    async fn pass(&self, time: Duration) {
        sleep(time).await;
    }

    async fn pass_for_writes(&self, time: Duration) {
        pass_for_writes(&self.server, time).await;
    }

    async fn reopen(&mut self) {
        self.state = None;
        self.server.restart().await;
        self.open().await;
    }
}

async fn restricted() -> Restricted {
    let certificates = Certificates::new(true);
    let server = RedisServer::start_with(true, &[&documented_user()], Some(&certificates)).await;
    Restricted { certificates, server, state: None }
}

conformance!(documented_user_suffices_for_everything runs all on restricted);

#[tokio::test]
async fn documented_user_is_refused_nothing() {
    let server = RedisServer::start_with(true, &[&documented_user()], None).await;
    let url = server.url().replace("//", "//gateway:hush@");
    let state = opened(&url, "").await;
    assert_eq!(state.probe().await, Ok(()));
    // The search for secrets that are not sealed.
    let backend = try_open(&url, "").await.expect("Redis runs");
    assert_eq!(backend.stored_secrets(None).await.expect("a page").secrets, []);
    assert_eq!(server.command("ACL LOG").await, "*0\r\n", "nothing was refused");
}

// === Sentinels ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_follows_primary_of_sentinels() {
    let mut group = Sentinels::start().await;
    let app = App::with_state(&group.url(), "").await;
    writes(&app).await;

    let former = group.fail_over().await;
    group.primary_after(former).await;
    writes(&app).await;
    group.ready().await;

    let former = group.kill_primary().await;
    group.primary_after(former).await;
    writes(&app).await;
    // It returns as a primary, and the sentinels make it a replica.
    group.servers[former].restart().await;
    group.ready().await;
    writes(&app).await;

    let former = group.stop_primary().await;
    group.primary_after(former).await;
    writes(&app).await;
    group.servers[former].resume();
    group.ready().await;
    writes(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_with_tls_and_password_are_used() {
    let certificates = Certificates::new(true);
    let group = Sentinels::start_with(Options {
        replicas: 1,
        password: Some("hush-1"),
        sentinel_password: Some("hush-2"),
        tls: Some(&certificates),
        ..Options::default()
    });
    let group = group.await;
    let tls = certificates.section(true);
    let more = format!("password = \"hush-1\"\nsentinel_password = \"hush-2\"\n{tls}");
    let state = opened(&group.url(), &more).await;
    assert_eq!(state.append(event(1)).await, Ok(Appended::New(1)));
    let former = group.fail_over().await;
    group.primary_after(former).await;
    assert_eq!(append_when_ready(&state, 2).await, Appended::New(2));

    let why = refused(&group.url(), &format!("password = \"hush-1\"\n{tls}")).await;
    assert!(why.contains("set `state.sentinel_password`"), "{why}");
    let url = group.url().replace("/gateway", "/other");
    let why = refused(&url, &more).await;
    assert!(why.contains("do not know the name other"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn primary_is_found_without_some_sentinels() {
    let mut group = Sentinels::start_with(Options { replicas: 1, ..Options::default() }).await;
    let state = opened(&group.url(), "").await;
    group.sentinels[0].kill();
    group.sentinels[1].stop();
    assert_eq!(state.append(event(1)).await, Ok(Appended::New(1)));
    let other = opened(&group.url(), "").await;
    assert_eq!(positions(&*other).await, [1]);

    group.sentinels[2].kill();
    let why = refused(&group.url(), "").await;
    assert!(why.contains("no sentinel answers"), "{why}");
    let server = &group.servers[0];
    let why = refused(&format!("redis-sentinel://127.0.0.1:{}/gateway", server.port), "").await;
    assert!(why.contains("no sentinel"), "{why}");
    assert_eq!(state.append(event(2)).await, Ok(Appended::New(2)), "none is needed meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_is_no_state() {
    let group = Sentinels::start_with(Options { replicas: 1, sentinels: 1, ..Options::default() });
    let group = group.await;
    let why = refused(&group.servers[1].url(), "").await;
    assert!(why.contains("it is a replica"), "{why}");
}

// === Cluster ===

/// A cluster of three primaries.
struct Whole {
    cluster: Cluster,
    state: Option<Arc<dyn State>>,
}

impl Whole {
    async fn empty(&mut self) {
        self.state = None;
        for server in &self.cluster.servers {
            server.command("FLUSHALL").await;
        }
        self.state = Some(opened(&self.cluster.url(), "").await);
    }
}

impl Backend for Whole {
    fn state(&self) -> Arc<dyn State> {
        self.state.clone().expect("open")
    }

    async fn pass(&self, time: Duration) {
        sleep(time).await;
    }

    async fn pass_for_writes(&self, time: Duration) {
        pass_for_writes(&self.cluster.servers[self.cluster.owner().await], time).await;
    }

    async fn reopen(&mut self) {
        self.state = None;
        let owner = self.cluster.owner().await;
        self.cluster.servers[owner].restart().await;
        self.cluster.ready().await;
        self.state = Some(opened(&self.cluster.url(), "").await);
    }
}

async fn cluster() -> Whole {
    Whole { cluster: Cluster::start(true, false, None).await, state: None }
}

conformance!(cluster_does_everything runs all on cluster);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_slot_loses_and_doubles_nothing() {
    let cluster = Cluster::start(true, false, None).await;
    let state = opened(&cluster.url(), "").await;
    let from = cluster.owner().await;
    let to = (from + 1) % 3;
    let load = tokio::spawn({
        let state = state.clone();
        async move {
            let mut refusals = Vec::new();
            for number in 1..=250 {
                loop {
                    match state.append(event(number)).await {
                        // An append whose answer was lost is known when it is repeated.
                        Ok(_) => break,
                        Err(error) => refusals.push(error.to_string()),
                    }
                    sleep(Duration::from_millis(10)).await;
                }
            }
            refusals
        }
    });
    for (from, to) in [(from, to), (to, from), (from, to)] {
        cluster.begin_move(from, to).await;
        let moving = async {
            while !state.probe().await.is_err_and(|error| error.to_string().contains("moving")) {}
        };
        within(SOON, moving).await;
        cluster.move_keys(from, to).await;
        cluster.end_move(from, to).await;
        within(SOON, async { while state.log().await.is_err() {} }).await;
    }
    let refusals = load.await.expect("no panic");
    let others = refusals.iter().filter(|why| !why.contains("moving the slot"));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(positions(&*state).await, (1..=250).collect::<Vec<_>>());
    assert_eq!(cluster.owner().await, to);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promoted_replica_of_cluster_is_followed() {
    let mut cluster = Cluster::start(true, true, None).await;
    let app = App::with_state(&cluster.url(), "").await;
    writes(&app).await;
    let former = cluster.owner().await;
    cluster.servers[former].kill();
    assert_eq!(cluster.owner_after(former).await, former + 3);
    writes(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_is_reached_only_as_cluster() {
    let certificates = Certificates::new(false);
    let mut cluster = Cluster::start(false, false, Some(&certificates)).await;
    let tls = certificates.section(false);
    let state = opened(&cluster.url(), &tls).await;
    assert_eq!(state.append(event(1)).await, Ok(Appended::New(1)));

    let owner = cluster.owner().await;
    let why = refused(&cluster.servers[(owner + 1) % 3].url(), "").await;
    assert!(why.contains("redis-cluster://"), "{why}");
    let single = RedisServer::start(false).await;
    let why = refused(&single.url().replace("redis:", "redis-cluster:"), "").await;
    assert!(why.contains("not part of a cluster"), "{why}");

    cluster.servers[(owner + 1) % 3].kill();
    let down = async {
        loop {
            match state.probe().await {
                Ok(()) => sleep(Duration::from_millis(20)).await,
                Err(error) => break error.to_string(),
            }
        }
    };
    let why = within(SOON, down).await;
    assert!(why.contains("cluster is down"), "{why}");
}
