//! What holds for every call to WeChat: whose account may make it, and whether it may be made twice.

use std::collections::HashSet;

use tonic::Code;
use wechat_store_gateway::simulator::{
    Fault, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID,
    faults::Kind::{Replace, ResetAfter},
};

use self::{Kinds::*, Repeat::*};
use crate::{
    documented::{Example, examples},
    support::{App, is, reason},
};

/// For whom WeChat's documents offer a call.
#[derive(Clone, Copy, PartialEq)]
enum Kinds {
    Any,
    MiniProgram,
    Official,
}

/// What follows a lost reply.
#[derive(Clone, Copy)]
enum Repeat {
    /// Another try: twice is the same as once.
    Again,
    /// Nothing: it might happen twice.
    Never,
}

const CALLS: [(&str, Kinds, Repeat); 22] = [
    // The first, for create_map_poi asks for the table too and finds it remembered.
    ("/wxa/get_district", Any, Again),
    ("/card/storewxa/get", Official, Again),
    ("/card/storewxa/set", Official, Again),
    ("/cgi-bin/media/upload", Any, Again),
    ("/cgi-bin/media/uploadimg", Any, Again),
    ("/cgi-bin/poi/delpoi", Official, Never),
    ("/cgi-bin/poi/getpoilist", Official, Again),
    ("/wxa/add_store", Official, Never),
    ("/wxa/addnearbypoi", MiniProgram, Never),
    ("/wxa/apply_merchant", Official, Never),
    ("/wxa/create_map_poi", Any, Never),
    ("/wxa/del_store", Official, Never),
    ("/wxa/delnearbypoi", MiniProgram, Never),
    ("/wxa/get_merchant_audit_info", Official, Again),
    ("/wxa/get_merchant_category", Any, Again),
    ("/wxa/get_store_info", Official, Again),
    ("/wxa/get_store_list", Official, Again),
    ("/wxa/getnearbypoilist", MiniProgram, Again),
    ("/wxa/modify_merchant", Official, Again),
    ("/wxa/search_map_poi", Any, Again),
    ("/wxa/setnearbypoishowstatus", MiniProgram, Again),
    ("/wxa/update_store", Official, Never),
];

/// Every call, each with an example of it.
fn calls() -> impl Iterator<Item = (Example, Kinds, Repeat)> {
    let mut seen = HashSet::new();
    let mut examples: Vec<_> = examples().into_iter().map(|(_, example)| example).collect();
    examples.retain(|example| seen.insert(example.path.clone()));
    CALLS.into_iter().map(move |(path, kinds, repeat)| {
        let at = examples.iter().position(|example| example.path == path);
        (examples.swap_remove(at.unwrap_or_else(|| panic!("no example of {path}"))), kinds, repeat)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_is_asked_for_again_only_where_twice_is_the_same_as_once() {
    let app = App::start().await;
    // What is not asked for again is looked for instead, with calls of the others.
    let (again, never): (Vec<_>, Vec<_>) =
        calls().partition(|&(.., repeat)| matches!(repeat, Again));
    for (example, _, repeat) in again.into_iter().chain(never) {
        app.wechat.fault(Fault::new(example.path.clone(), ResetAfter).times(3));
        let before = app.count(&example.path);
        let answer = example.call(&app).await;
        let attempts = app.count(&example.path) - before;
        match repeat {
            Again => {
                let expected = is(Code::Unavailable, "WECHAT_UNREACHABLE");
                let status = answer.expect_err(&example.path);
                assert_eq!(reason(&status), expected, "{}", example.path);
                assert_eq!(attempts, 3, "{}", example.path);
            }
            Never => {
                // Unless WeChat shows that it got through.
                if let Err(status) = answer {
                    let expected = is(Code::Unknown, "OUTCOME_UNKNOWN");
                    assert_eq!(reason(&status), expected, "{}", example.path);
                }
                assert_eq!(attempts, 1, "{}", example.path);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_made_for_the_kinds_of_account_that_wechat_names() {
    for (named, kind) in [(OFFICIAL_APP_ID, Official), (MINI_PROGRAM_APP_ID, MiniProgram)] {
        let app = App::start().await;
        for (mut example, kinds, _) in calls() {
            example.request["appId"] = named.into();
            app.wechat
                .fault(Fault::new(example.path.clone(), Replace { body: example.reply.clone() }));
            // Others may have made the same call beforehand.
            let before = app.count(&example.path);
            let answer = example.call(&app).await;
            let calls = app.wechat.calls(&example.path).into_iter().skip(before);
            let callers: Vec<_> = calls.map(|call| call.app_id).collect();
            if kinds == Any || kinds == kind {
                answer.unwrap_or_else(|status| panic!("{}: {status:?}", example.path));
                assert_eq!(callers, [named], "{}", example.path);
            } else {
                let status = answer.expect_err("the wrong kind");
                let expected = is(Code::InvalidArgument, "ACCOUNT_KIND_MISMATCH");
                assert_eq!(reason(&status), expected, "{}", example.path);
                assert!(callers.is_empty(), "{}", example.path);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_names_no_account_is_made_for_the_default_one_of_its_kind() {
    let app = App::start().await;
    for (example, kinds, _) in calls() {
        app.wechat.fault(Fault::new(example.path.clone(), Replace { body: example.reply.clone() }));
        example.call(&app).await.unwrap_or_else(|status| panic!("{}: {status:?}", example.path));
        let expected = if kinds == MiniProgram { MINI_PROGRAM_APP_ID } else { OFFICIAL_APP_ID };
        assert_eq!(app.wechat.calls(&example.path)[0].app_id, expected, "{}", example.path);
    }
}
