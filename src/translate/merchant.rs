//! The store mini program itself.

use super::{Form, ReviewedCall, WriteCall};
use crate::{
    journal::{ExpectedEffect, Review},
    pb::{self, AuditState, SubmissionKind},
    validate::{Check, Invalid},
    wechat::{
        Done, Int, List, Rows, Text,
        merchant::{
            ApplyMerchant, CategoryNode, GetMerchantAuditInfoReply, GetMerchantCategoryReply,
            MerchantAuditInfo, ModifyMerchant, QualifyDocument, QualifyGroup,
        },
    },
};

/// 名称长度为4-30个字符(中文算两个字符).
const NAME_UNITS: (usize, usize) = (4, 30);
/// The most categories in a response, as `proto/` states. WeChat has a few hundred.
const MOST_CATEGORIES: usize = 2000;
/// The id of WeChat's root, which is not a category.
const ROOT: &str = "0";

impl From<GetMerchantCategoryReply> for pb::ListCategoriesResponse {
    fn from(GetMerchantCategoryReply { data }: GetMerchantCategoryReply) -> Self {
        let Rows(nodes) = data.all_category_info.categories;
        let nodes = nodes.into_iter().filter(|node| !node.is_root());
        let mut categories: Vec<pb::Category> = nodes.map(Into::into).collect();
        // Parents come first. Otherwise WeChat's order is kept.
        categories.sort_by_key(|category| category.level);
        let omitted = categories.len().saturating_sub(MOST_CATEGORIES);
        categories.truncate(MOST_CATEGORIES);
        Self { categories, omitted_count: omitted.try_into().unwrap_or(i32::MAX) }
    }
}

impl From<CategoryNode> for pb::Category {
    fn from(node: CategoryNode) -> Self {
        let CategoryNode { id, name, level, father, children, sensitive_type, qualify } = node;
        let Text(father) = father;
        let groups = qualify.unwrap_or_default().exter_list.0.into_iter();
        Self {
            id: id.0,
            name: name.0,
            level: level.0.unwrap_or_default(),
            parent_id: if father == ROOT { String::new() } else { father },
            child_ids: children.0.into_iter().map(|Text(id)| id).collect(),
            sensitive: sensitive_type == Int(Some(1)),
            required_documents: groups
                .map(pb::DocumentGroup::from)
                .filter(|group| !group.names.is_empty())
                .collect(),
        }
    }
}

impl From<QualifyGroup> for pb::DocumentGroup {
    fn from(QualifyGroup { inner_list: List(documents) }: QualifyGroup) -> Self {
        let names = documents.into_iter().map(|QualifyDocument { name: Text(name) }| name);
        Self { names: names.filter(|name| !name.is_empty()).collect() }
    }
}

impl TryFrom<pb::ApplyMerchantRequest> for ApplyMerchant {
    type Error = Invalid;

    fn try_from(request: pb::ApplyMerchantRequest) -> Result<Self, Invalid> {
        let pb::ApplyMerchantRequest {
            app_id: _,
            request_id: _,
            client_reference: _,
            first_category_id,
            second_category_id,
            qualification_media_ids,
            avatar_media_id,
            name,
            introduction,
            license_media_id,
            supplementary_media_ids,
            validate_only: _,
        } = request;
        let mut check = Check::default();
        let (min, max) = NAME_UNITS;
        let call = Self {
            first_catid: category_id(&mut check, "first_category_id", &first_category_id),
            second_catid: category_id(&mut check, "second_category_id", &second_category_id),
            qualification_list: check.documents("qualification_media_ids", qualification_media_ids),
            headimg_mediaid: check.media_id("avatar_media_id", avatar_media_id),
            nickname: check.units("name", name, min, max),
            intro: check.prose("introduction", introduction),
            org_code: check
                .formed_if_any("license_media_id", license_media_id, &Form::MEDIA_ID)
                .into(),
            other_files: check.documents("supplementary_media_ids", supplementary_media_ids),
        };
        check.done(call)
    }
}

/// Checks the id of a category, which WeChat expects as a number.
fn category_id(check: &mut Check, field: &str, id: &str) -> u64 {
    let is_number = id.bytes().all(|byte| byte.is_ascii_digit());
    match id.parse() {
        Ok(id) if is_number => id,
        _ => {
            check.refuse(field, "must be the id of a category, as ListCategories gives it");
            0
        }
    }
}

impl WriteCall for ApplyMerchant {
    fn expected_effect(&self) -> Option<ExpectedEffect> {
        Some(ExpectedEffect::MerchantAuditChanged(Default::default()))
    }
}

impl ReviewedCall for ApplyMerchant {
    fn review(&self, Done {}: &Done) -> Review {
        Review { kind: SubmissionKind::Merchant, ..Review::default() }
    }
}

impl From<GetMerchantAuditInfoReply> for pb::GetMerchantAuditResponse {
    fn from(GetMerchantAuditInfoReply { data }: GetMerchantAuditInfoReply) -> Self {
        let MerchantAuditInfo { audit_id, status, reason, unreadable } = data;
        Self {
            audit_id: audit_id.into(),
            state: state(status).into(),
            wechat_status: status.0,
            reason: reason.0,
            unreadable_fields: unreadable,
        }
    }
}

/// The `status` of get_merchant_audit_info (审核状态,0:未提交审核,1:审核成功,2:审核中,
/// 3:审核失败,4:管理员拒绝).
fn state(status: Int) -> AuditState {
    match status.0 {
        Some(0) => AuditState::NotSubmitted,
        Some(1) => AuditState::Approved,
        Some(2) => AuditState::InReview,
        Some(3) => AuditState::Rejected,
        Some(4) => AuditState::DeclinedByAdmin,
        _ => AuditState::Unspecified,
    }
}

impl TryFrom<pb::UpdateMerchantRequest> for ModifyMerchant {
    type Error = Invalid;

    fn try_from(request: pb::UpdateMerchantRequest) -> Result<Self, Invalid> {
        let pb::UpdateMerchantRequest { app_id: _, request_id: _, avatar_media_id, introduction } =
            request;
        let mut check = Check::default();
        if avatar_media_id.is_none() && introduction.is_none() {
            check.refuse("avatar_media_id", "required, unless introduction is there");
        }
        let avatar = check.formed_change("avatar_media_id", avatar_media_id, &Form::MEDIA_ID);
        let introduction = check.change("introduction", introduction);
        // For WeChat, empty means unchanged.
        check.done(Self {
            headimg_mediaid: avatar.unwrap_or_default().into(),
            intro: introduction.unwrap_or_default(),
        })
    }
}

impl WriteCall for ModifyMerchant {}

impl From<Done> for pb::UpdateMerchantResponse {
    fn from(Done {}: Done) -> Self {
        Self { recovered: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_categories_are_parsed() {
        let reply: GetMerchantCategoryReply = serde_json::from_str(
            r#"{"errcode":0,"errmsg":"ok","data":{"all_category_info":{"categories":[
                {"id":280,"name":"便利店","level":2,"father":278,"children":[],"qualify":
                    {"exter_list":[{"inner_list":[{"name":"若涉及食品,请提供《食品经营许可证》"}]}]},
                    "scene":3,"sensitive_type":1},
                {"id":0,"name":"root","level":0,"children":[269,278]},
                {"id":278,"name":"购物","level":1,"father":0,"children":[279,280]}]}}}"#,
        )
        .expect("the documented sample");
        let pb::ListCategoriesResponse { categories, omitted_count } = reply.into();
        assert_eq!(omitted_count, 0);
        let [shopping, store] = &categories[..] else { panic!("{categories:?}") };
        assert_eq!((shopping.id.as_str(), shopping.parent_id.as_str()), ("278", ""));
        assert_eq!(shopping.child_ids, ["279", "280"]);
        assert!(!shopping.sensitive && shopping.required_documents.is_empty());
        assert_eq!((store.id.as_str(), store.parent_id.as_str()), ("280", "278"));
        assert!(store.sensitive);
        assert_eq!(store.required_documents[0].names, ["若涉及食品,请提供《食品经营许可证》"]);
    }

    #[test]
    fn categories_beyond_the_limit_are_counted() {
        let nodes = (1..=2001).map(|id| serde_json::json!({ "id": id, "level": 1, "father": 0 }));
        let nodes: Vec<_> = nodes.collect();
        let reply = serde_json::json!({ "data": { "all_category_info": { "categories": nodes } } });
        let reply: GetMerchantCategoryReply = serde_json::from_value(reply).expect("a reply");
        let pb::ListCategoriesResponse { categories, omitted_count } = reply.into();
        assert_eq!((categories.len(), omitted_count), (2000, 1));
    }

    #[test]
    fn application_state_has_its_own_table() {
        for (json, expected) in [
            (r#"{"data":{"audit_id":0,"status":0}}"#, (AuditState::NotSubmitted, 0, "")),
            (
                r#"{"data":{"audit_id":414569513,"status":1}}"#,
                (AuditState::Approved, 1, "414569513"),
            ),
            (r#"{"data":{"audit_id":"7","status":"2"}}"#, (AuditState::InReview, 2, "7")),
            (r#"{"data":{"audit_id":7,"status":3}}"#, (AuditState::Rejected, 3, "7")),
            (r#"{"data":{"audit_id":7,"status":4}}"#, (AuditState::DeclinedByAdmin, 4, "7")),
            (r#"{"data":{"audit_id":7,"status":9}}"#, (AuditState::Unspecified, 9, "7")),
        ] {
            let reply: GetMerchantAuditInfoReply = serde_json::from_str(json).expect(json);
            let audit = pb::GetMerchantAuditResponse::from(reply);
            let (state, number, audit_id) = expected;
            assert_eq!((audit.state(), audit.wechat_status), (state, Some(number)), "{json}");
            assert_eq!(audit.audit_id, audit_id, "{json}");
        }
    }

    fn application() -> pb::ApplyMerchantRequest {
        pb::ApplyMerchantRequest {
            first_category_id: "476".to_owned(),
            second_category_id: "477".to_owned(),
            qualification_media_ids: vec!["RTZg".to_owned(), "K386".to_owned()],
            avatar_media_id: "RTZg".to_owned(),
            name: "江南茶铺".to_owned(),
            introduction: "茶".to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn application_matches_the_document() {
        let call = ApplyMerchant::try_from(application()).expect("valid");
        assert_eq!(
            serde_json::to_string(&call).expect("JSON"),
            r#"{"first_catid":476,"second_catid":477,"qualification_list":"RTZg|K386","headimg_mediaid":"RTZg","nickname":"江南茶铺","intro":"茶","org_code":"","other_files":""}"#
        );
    }

    #[test]
    fn every_error_in_an_application_is_reported() {
        let invalid = ApplyMerchant::try_from(pb::ApplyMerchantRequest {
            first_category_id: "+476".to_owned(),
            second_category_id: String::new(),
            qualification_media_ids: vec![String::new(); 6],
            avatar_media_id: "a|b".to_owned(),
            name: "茶".to_owned(),
            ..application()
        })
        .expect_err("all wrong");
        let fields: Vec<_> = invalid.violations().iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields[..3],
            ["first_category_id", "second_category_id", "qualification_media_ids"]
        );
        assert_eq!(fields[3], "qualification_media_ids[0]");
        assert_eq!(fields[9..], ["avatar_media_id", "name"]);
    }

    #[test]
    fn absent_values_stay_and_empty_ones_fail() {
        let update = |avatar: Option<&str>, introduction: Option<&str>| {
            let call = ModifyMerchant::try_from(pb::UpdateMerchantRequest {
                avatar_media_id: avatar.map(str::to_owned),
                introduction: introduction.map(str::to_owned),
                ..Default::default()
            })?;
            Ok::<_, Invalid>(serde_json::to_string(&call).expect("JSON"))
        };
        let sent = update(None, Some("茶"));
        assert_eq!(sent.as_deref(), Ok(r#"{"headimg_mediaid":"","intro":"茶"}"#));
        for (avatar, introduction) in [(None, None), (Some(""), None), (None, Some(" "))] {
            assert!(update(avatar, introduction).is_err(), "{avatar:?} {introduction:?}");
        }
    }
}
