//! The store mini program itself.

use std::time::Duration;

use serde_json::json;
use tonic::Code;
use wechat_simulator::{MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID};
use wechat_store_gateway::pb::{self, AuditState};

use crate::support::{App, is, reason};

const CATEGORIES: &str = "/wxa/get_merchant_category";

fn no_merchant(app: &App) {
    let body = json!({"app_id": OFFICIAL_APP_ID, "exists": false});
    app.wechat.control("POST", "merchant", &body).expect("taken away");
}

async fn categories(app: &App) -> Vec<pb::Category> {
    let request = pb::ListCategoriesRequest::default();
    app.merchants().list_categories(request).await.expect("categories").into_inner().categories
}

async fn audit(app: &App) -> pb::GetMerchantAuditResponse {
    let request = pb::GetMerchantAuditRequest::default();
    app.merchants().get_merchant_audit(request).await.expect("an audit").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn categories_are_fetched_once_a_day() {
    let app = App::start().await;
    let first = categories(&app).await;
    let sensitive = first.iter().find(|category| category.sensitive).expect("one needs papers");
    assert!(!sensitive.required_documents.is_empty());
    assert!(first.iter().any(|c| c.id == sensitive.parent_id && c.level == 1));
    assert!(first.iter().all(|category| category.id != "0"), "the root is no category");
    for _ in 0..10 {
        assert_eq!(categories(&app).await, first);
    }
    assert_eq!(app.count(CATEGORIES), 1);
    app.clock.advance(Duration::from_secs(24 * 3600 + 1));
    categories(&app).await;
    while app.count(CATEGORIES) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn application_waits_for_admin_then_wechat() {
    let app = App::start().await;
    no_merchant(&app);
    assert_eq!(audit(&app).await.state(), AuditState::NotSubmitted);
    let category = categories(&app).await.into_iter().find(|c| c.sensitive).expect("one");
    let papers = vec![app.upload().await, app.upload().await];
    let request = pb::ApplyMerchantRequest {
        client_reference: "brand-1".to_owned(),
        first_category_id: category.parent_id.clone(),
        second_category_id: category.id.clone(),
        qualification_media_ids: papers.clone(),
        avatar_media_id: app.upload().await,
        name: "巷口小馆".to_owned(),
        introduction: "家常菜".to_owned(),
        ..Default::default()
    };
    let answer = app.merchants().apply_merchant(request.clone()).await.expect("submitted");
    let submission = answer.into_inner().submission.expect("a submission");
    assert_eq!(submission.state(), AuditState::AwaitingAdmin);
    assert_eq!(submission.audit_id, "");
    let created = submission.create_time.expect("a time").seconds;
    assert_eq!(submission.resubmit_after.expect("a time").seconds, created + 24 * 3600);
    let sent = &app.wechat.calls("/wxa/apply_merchant")[0].body;
    assert_eq!(sent["qualification_list"], json!(papers.join("|")));
    assert_eq!(sent["first_catid"].to_string(), category.parent_id, "a number");

    let status = app.merchants().apply_merchant(request).await.expect_err("in review");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "MERCHANT_UNDER_REVIEW"));
    let audit_id = audit(&app).await.audit_id.parse().expect("a number");
    app.wechat.reject(audit_id, "头像不清晰").expect("an open review");
    let rejected = audit(&app).await;
    assert_eq!((rejected.state(), rejected.wechat_status), (AuditState::Rejected, Some(3)));
    assert_eq!(rejected.reason, "头像不清晰");
}

#[tokio::test(flavor = "multi_thread")]
async fn name_that_needs_documents_has_own_reason() {
    let app = App::start().await;
    no_merchant(&app);
    let category = categories(&app).await.into_iter().find(|c| c.level == 2 && !c.sensitive);
    let category = category.expect("one");
    let request = pb::ApplyMerchantRequest {
        first_category_id: category.parent_id,
        second_category_id: category.id,
        avatar_media_id: app.upload().await,
        name: "巷口银行".to_owned(),
        introduction: "存取款".to_owned(),
        ..Default::default()
    };
    let status = app.merchants().apply_merchant(request).await.expect_err("papers are needed");
    assert_eq!(reason(&status), is(Code::FailedPrecondition, "MERCHANT_NAME_NEEDS_DOCUMENTS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn change_keeps_absent_fields() {
    let app = App::start().await;
    let request = pb::UpdateMerchantRequest {
        introduction: Some("十年老店".to_owned()),
        ..Default::default()
    };
    app.merchants().update_merchant(request).await.expect("changed");
    let sent = &app.wechat.calls("/wxa/modify_merchant")[0].body;
    assert_eq!(sent, &json!({"headimg_mediaid": "", "intro": "十年老店"}));
    for request in [
        pb::UpdateMerchantRequest::default(),
        pb::UpdateMerchantRequest { introduction: Some(String::new()), ..Default::default() },
    ] {
        let status = app.merchants().update_merchant(request).await.expect_err("no change");
        assert_eq!(reason(&status), is(Code::InvalidArgument, "INVALID_REQUEST"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn categories_are_cached_per_account() {
    let app = App::start().await;
    for app_id in [OFFICIAL_APP_ID, MINI_PROGRAM_APP_ID, OFFICIAL_APP_ID] {
        let request = pb::ListCategoriesRequest { app_id: app_id.to_owned() };
        app.merchants().list_categories(request).await.expect("categories");
    }
    let callers: Vec<_> = app.wechat.calls(CATEGORIES).into_iter().map(|c| c.app_id).collect();
    assert_eq!(callers, [OFFICIAL_APP_ID, MINI_PROGRAM_APP_ID]);
}
