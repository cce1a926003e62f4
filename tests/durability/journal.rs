//! A process is killed in the middle of a write. The tests check the journal afterwards, and the
//! result of a repeat.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::{sleep, timeout};
use tonic::{Code, Request, Status};
use wechat_simulator::{Fault, faults::Kind};
use wechat_store_gateway::pb::{
    self, WriteState, get_write_request::Lookup, store_service_client::StoreServiceClient,
    write_service_client::WriteServiceClient,
};

use crate::{
    gateway::{Gateway, LONG, MOMENT, new_store, reason},
    print_figures,
    redis::RedisServer,
    sender::WeChat,
};

const ADD_STORE: &str = "/wxa/add_store";
const STABLE_TOKEN: &str = "/cgi-bin/stable_token";
const NAME: &str = "0d5f1c3a-5f0e-4d7e-9c55-0a3f5f1c2b6d";

#[tokio::test]
async fn kill_before_reply_resends_nothing_with_sqlite() {
    killed_while_sent("sqlite:{folder}/state.db").await;
}

#[tokio::test]
async fn kill_before_reply_resends_nothing_with_redis() {
    let redis = RedisServer::start(true).await;
    killed_while_sent(&redis.url()).await;
}

#[tokio::test]
async fn kill_before_sending_lets_repeat_execute_with_sqlite() {
    killed_while_claimed("sqlite:{folder}/state.db").await;
}

#[tokio::test]
async fn kill_before_sending_lets_repeat_execute_with_redis() {
    let redis = RedisServer::start(true).await;
    killed_while_claimed(&redis.url()).await;
}

/// WeChat executed the write, and the process is killed while it waits for the answer.
async fn killed_while_sent(state: &str) {
    let wechat = WeChat::start().await;
    let mut gateway = Gateway::start(wechat.address, state).await;
    wechat.simulator.fault(Fault::new(ADD_STORE, Kind::Hold));
    let call = tokio::spawn(add(gateway.stores(), LONG));
    until(|| wechat.simulator.calls(ADD_STORE).iter().any(|call| call.executed)).await;
    restart(&mut gateway).await;
    call.await.expect("no panic").expect_err("its process is dead");

    let write = get_write(&gateway).await.expect("it was noted before it was sent");
    assert_eq!((write.state(), write.attempts), (WriteState::Sent, 1));
    let hasty = add(gateway.stores(), Duration::from_millis(600)).await.expect_err("not yet known");
    assert_eq!(reason(&hasty), (Code::Aborted, "WRITE_IN_PROGRESS".to_owned()));
    // For other processes, the answer may still arrive. Then it does not.
    let began = Instant::now();
    let write = loop {
        let write = get_write(&gateway).await.expect("it stays");
        if write.state() != WriteState::Sent {
            break write;
        }
        assert!(began.elapsed() < LONG, "it never becomes unknown");
        sleep(5 * MOMENT).await;
    };
    print_figures(&format!("a write whose process died is unknown after {:.0?}", began.elapsed()));
    // The new process may have recovered it already.
    let found = write.state() == WriteState::Finished;
    assert!(found || write.state() == WriteState::Unknown, "{write:?}");
    assert_eq!(write.attempts, 1);
    // A recovery may find the write. No process sends it again.
    match add(gateway.stores(), LONG).await {
        Ok(found) => assert!(found.recovered, "{found:?}"),
        Err(status) => {
            assert_eq!(reason(&status), (Code::Unknown, "OUTCOME_UNKNOWN".to_owned()));
        }
    }
    assert_eq!(wechat.simulator.calls(ADD_STORE).len(), 1);
}

/// The process is killed while a write waits for a token.
async fn killed_while_claimed(state: &str) {
    let wechat = WeChat::start().await;
    let mut gateway = Gateway::start(wechat.address, state).await;
    wechat.simulator.fault(Fault::new(STABLE_TOKEN, Kind::Hold).times(0));
    let patience = Duration::from_secs(4);
    let call = tokio::spawn(add(gateway.stores(), patience));
    until(|| !wechat.simulator.calls(STABLE_TOKEN).is_empty()).await;
    restart(&mut gateway).await;
    call.await.expect("no panic").expect_err("its process is dead");
    wechat.simulator.control("DELETE", "faults", &Value::Null).expect("cleared");

    let write = get_write(&gateway).await.expect("it was claimed");
    assert_eq!((write.state(), write.attempts), (WriteState::Claimed, 0));
    // For other processes, the holder of the claim may still send it.
    let hasty = add(gateway.stores(), Duration::from_millis(600)).await.expect_err("it is taken");
    assert_eq!(reason(&hasty), (Code::Aborted, "WRITE_IN_PROGRESS".to_owned()));
    assert_eq!(wechat.simulator.calls(ADD_STORE).len(), 0);
    let began = Instant::now();
    let answer = add(gateway.stores(), LONG).await.expect("the claim ended, and this is the first");
    print_figures(&format!("a write whose process died is executed after {:.0?}", began.elapsed()));
    assert!(answer.submission.is_some() && !answer.recovered);
    let write = get_write(&gateway).await.expect("remembered");
    assert_eq!((write.state(), write.attempts), (WriteState::Finished, 1));
    let repeated = add(gateway.stores(), LONG).await.expect("known");
    assert_eq!(repeated, answer);
    assert_eq!(wechat.simulator.calls(ADD_STORE).len(), 1);
}

/// Submits a store with the request id [`NAME`].
async fn add(
    mut stores: StoreServiceClient<tonic::transport::Channel>,
    patience: Duration,
) -> Result<pb::AddStoreResponse, Status> {
    let store = pb::AddStoreRequest { request_id: NAME.to_owned(), ..new_store() };
    let mut request = Request::new(store);
    request.set_timeout(patience);
    Ok(stores.add_store(request).await?.into_inner())
}

async fn get_write(gateway: &Gateway) -> Option<pb::Write> {
    let lookup = Some(Lookup::WriteRequestId(NAME.to_owned()));
    let request = pb::GetWriteRequest { app_id: String::new(), lookup };
    let mut writes = WriteServiceClient::new(gateway.channel());
    let answer = timeout(LONG, writes.get_write(request)).await.expect("an answer in time");
    answer.expect("a write").into_inner().write
}

/// Kills the process and starts it again.
async fn restart(gateway: &mut Gateway) {
    gateway.kill();
    gateway.spawn();
    gateway.serves().await;
}

async fn until(happened: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !happened() {
        assert!(Instant::now() < end, "it does not happen");
        sleep(MOMENT).await;
    }
}
