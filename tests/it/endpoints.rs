//! Rules for every call to WeChat: the accounts that may make it, and whether it may be repeated.
//!
//! [`endpoints`] lists the calls, and the examples in `tests/documented` state the rules of
//! WeChat's documents. A new endpoint is therefore tested here as soon as it compiles.

use std::collections::{BTreeSet, HashMap};

use tonic::Code;
use wechat_simulator::{
    Fault, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID,
    faults::Kind::{self, Errcode, Replace, ResetAfter},
};
use wechat_store_gateway::testing::wechat::{AccountKinds, Facts, Safety, endpoints};

use crate::{
    documented::{Account, AfterLostReply, Example, component_paths, examples},
    support::{App, CLASSIC_TOKEN, STABLE_TOKEN, is, reason},
};

/// The calls that carry the secret instead of a token, each with its setting.
const TOKENS: [(&str, &str); 2] = [(CLASSIC_TOKEN, "classic"), (STABLE_TOKEN, "stable")];

/// Returns every endpoint that needs the token of an account, with an example call.
pub(crate) fn calls() -> Vec<(&'static Facts, Example)> {
    let mut by_path = HashMap::new();
    for (_, example) in examples() {
        by_path.entry(example.path.clone()).or_insert(example);
    }
    let is_token = |facts: &Facts| TOKENS.iter().any(|&(path, _)| path == facts.path);
    let of_account = |facts: &&Facts| facts.account != AccountKinds::Platform && !is_token(facts);
    let calls = endpoints().filter(of_account);
    let with_example = |facts: &'static Facts| {
        let example = by_path.remove(facts.path);
        (facts, example.unwrap_or_else(|| panic!("tests/documented has no {}", facts.path)))
    };
    calls.map(with_example).collect()
}

#[test]
fn endpoint_matches_its_document() {
    let mut shown = BTreeSet::new();
    for (name, example) in examples() {
        let facts = endpoints().find(|facts| facts.path == example.path);
        let facts = facts.unwrap_or_else(|| panic!("{name}: no endpoint {}", example.path));
        let account = match facts.account {
            AccountKinds::Any => Account::Any,
            AccountKinds::MiniProgram => Account::MiniProgram,
            AccountKinds::Official => Account::Official,
            AccountKinds::Platform => panic!("{name}: belongs into the folder component"),
        };
        let after_lost_reply = match facts.safety {
            Safety::Read | Safety::Repeatable => AfterLostReply::Again,
            Safety::Once(_) => AfterLostReply::Never,
        };
        assert_eq!(account, example.account, "{name}");
        assert_eq!(after_lost_reply, example.after_lost_reply, "{name}");
        shown.insert(example.path);
    }
    shown.extend(TOKENS.map(|(path, _)| path.to_owned()));
    let of_platform = endpoints().filter(|facts| facts.account == AccountKinds::Platform);
    let of_platform = of_platform.map(|facts| facts.path.to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(of_platform, component_paths());
    shown.extend(of_platform);
    let paths: BTreeSet<_> = endpoints().map(|facts| facts.path.to_owned()).collect();
    assert_eq!(paths, shown);
    assert_eq!(paths.len(), endpoints().count(), "two endpoints have one path");
}

#[test]
fn documented_rows_show_call_and_retry() {
    let table = include_str!("../../docs/calls.md");
    for (_, example) in examples() {
        let facts = endpoints().find(|facts| facts.path == example.path).expect("an endpoint");
        let (_, method) = example.rpc.split_once('/').expect("Service/Method");
        let row = format!("| {method} | {} {} | ", facts.method, facts.path);
        let retried = match example.after_lost_reply {
            AfterLostReply::Again => " | yes | ",
            AfterLostReply::Never => " | no | ",
        };
        let is_shown = |line: &str| line.starts_with(&row) && line.contains(retried);
        assert!(table.lines().any(is_shown), "docs/calls.md has no row {row}…{retried}");
    }
}

#[test]
fn documented_permission_sets_are_those_of_calls() {
    let text = include_str!("../../docs/calls.md");
    let (_, table) = text.split_once("## Permission sets").expect("the heading");
    let table = table.split("\n#").next().unwrap_or_default();
    let shown: BTreeSet<_> = table.lines().filter(|line| line.starts_with("| `/")).collect();
    let with_sets = endpoints().filter(|facts| !facts.permission_sets.is_empty());
    let rows = with_sets.map(|facts| {
        let sets: Vec<_> = facts.permission_sets.iter().map(ToString::to_string).collect();
        format!("| `{}` | {} |", facts.path, sets.join(", "))
    });
    let rows: BTreeSet<_> = rows.collect();
    assert_eq!(shown, rows.iter().map(String::as_str).collect());
}

/// Lets three calls fail, and returns the number of attempts and the result.
async fn attempts(example: &Example, failure: Kind) -> (usize, Option<(Code, String)>) {
    let app = App::start().await;
    app.wechat.fault(Fault::new(example.path.clone(), failure).times(3));
    let answer = example.call(&app).await;
    (app.count(&example.path), answer.err().map(|status| reason(&status)))
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_reply_is_retried_only_for_idempotent_calls() {
    for (facts, example) in calls() {
        let (attempts, failure) = attempts(&example, ResetAfter).await;
        match example.after_lost_reply {
            AfterLostReply::Again => {
                let expected = is(Code::Unavailable, "WECHAT_UNREACHABLE");
                assert_eq!((attempts, failure), (3, Some(expected)), "{}", facts.path);
            }
            AfterLostReply::Never => {
                // A read at WeChat may show that the call was executed.
                let expected = is(Code::Unknown, "OUTCOME_UNKNOWN");
                assert!(failure.is_none_or(|failure| failure == expected), "{}", facts.path);
                assert_eq!(attempts, 1, "{}", facts.path);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_reply_is_retried_only_for_idempotent_calls() {
    let busy = Errcode { errcode: -1, errmsg: None };
    for (facts, example) in calls() {
        let (attempts, failure) = attempts(&example, busy.clone()).await;
        assert!(failure.is_some(), "{}", facts.path);
        let expected = if example.after_lost_reply == AfterLostReply::Again { 3 } else { 1 };
        assert_eq!(attempts, expected, "{}", facts.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_token_reply_is_retried() {
    for (path, kind) in TOKENS {
        let app = App::with(&format!("default = true\ntoken = \"{kind}\"")).await;
        app.wechat.fault(Fault::new(path, ResetAfter).times(2));
        let status = app.read().await.expect_err("there is no such store");
        assert_eq!(reason(&status), is(Code::NotFound, "STORE_NOT_FOUND"), "{path}");
        assert_eq!(app.count(path), 3, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn call_requires_documented_account_kind() {
    use Account::{MiniProgram, Official};
    for (named, kind) in [(OFFICIAL_APP_ID, Official), (MINI_PROGRAM_APP_ID, MiniProgram)] {
        for (facts, mut example) in calls() {
            let app = App::start().await;
            example.request["appId"] = named.into();
            app.wechat.fault(Fault::new(facts.path, Replace { body: example.reply.clone() }));
            let answer = example.call(&app).await;
            let calls = app.wechat.calls(facts.path);
            let callers: Vec<_> = calls.into_iter().map(|call| call.app_id).collect();
            if example.account == Account::Any || example.account == kind {
                answer.unwrap_or_else(|status| panic!("{}: {status:?}", facts.path));
                assert_eq!(callers, [named], "{}", facts.path);
            } else {
                let status = answer.expect_err("the wrong kind");
                let expected = is(Code::InvalidArgument, "ACCOUNT_KIND_MISMATCH");
                assert_eq!(reason(&status), expected, "{}", facts.path);
                assert!(callers.is_empty(), "{}", facts.path);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_app_id_selects_default_account() {
    for (facts, example) in calls() {
        let app = App::start().await;
        app.wechat.fault(Fault::new(facts.path, Replace { body: example.reply.clone() }));
        example.call(&app).await.unwrap_or_else(|status| panic!("{}: {status:?}", facts.path));
        let is_mini_program = example.account == Account::MiniProgram;
        let expected = if is_mini_program { MINI_PROGRAM_APP_ID } else { OFFICIAL_APP_ID };
        assert_eq!(app.wechat.calls(facts.path)[0].app_id, expected, "{}", facts.path);
    }
}
