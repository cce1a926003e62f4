//! Places at which a mini program appears nearby.

use bytes::Bytes;

use super::{Form, ReviewedCall, WriteCall, fingerprint, store::WantedRows};
use crate::{
    journal::{ExpectedEffect, NearbyPoiFingerprint, Review},
    pb::{self, AuditState, NearbyServiceKind as Kind, SubmissionKind},
    util::id::PoiId,
    validate::{Check, Invalid},
    wechat::{
        Done, Int, PicList, Quoted, Text,
        nearby::{
            AddNearbyPoi, AddNearbyPoiReply, AddedNearbyPoi, DelNearbyPoi, KfInfo, ListedNearbyPoi,
            ServiceInfo, ServiceInfos, SetNearbyPoiShowStatus,
        },
    },
};

/// 最多9张,最少1张.
const MOST_PICTURES: usize = 9;
/// The most labels with one of WeChat's own names (93016).
const MOST_STANDARD_LABELS: usize = 5;
/// The most labels with a name of the caller's own (93016).
const MOST_CUSTOM_LABELS: usize = 4;
/// Names and descriptions of labels (10个字符以内).
const LABEL_CHARACTERS: usize = 10;
/// The most places per page, which is WeChat's number.
const MOST_ROWS: u32 = 1000;
/// The default number of places per page.
const DEFAULT_PAGE_SIZE: u32 = 20;

impl TryFrom<pb::AddNearbyPoiRequest> for AddNearbyPoi {
    type Error = Invalid;

    fn try_from(request: pb::AddNearbyPoiRequest) -> Result<Self, Invalid> {
        let pb::AddNearbyPoiRequest {
            app_id: _,
            request_id: _,
            client_reference: _,
            profile,
            validate_only: _,
        } = request;
        place(Check::default(), PoiId::default(), profile)
    }
}

impl TryFrom<pb::ReplaceNearbyPoiRequest> for AddNearbyPoi {
    type Error = Invalid;

    fn try_from(request: pb::ReplaceNearbyPoiRequest) -> Result<Self, Invalid> {
        let pb::ReplaceNearbyPoiRequest {
            app_id: _,
            request_id: _,
            client_reference: _,
            nearby_poi_id,
            profile,
            validate_only: _,
        } = request;
        let mut check = Check::default();
        let poi_id = check.formed("nearby_poi_id", nearby_poi_id, &Form::POI_ID).into();
        place(check, poi_id, profile)
    }
}

fn place(
    mut check: Check,
    poi_id: PoiId,
    profile: Option<pb::NearbyPoiProfile>,
) -> Result<AddNearbyPoi, Invalid> {
    let Some(profile) = profile else {
        check.refuse("profile", "required");
        return check.done(AddNearbyPoi::default());
    };
    let described = described(&mut check, profile);
    check.done(AddNearbyPoi { poi_id, ..described })
}

/// Returns the place, still without the id of the place that it replaces.
fn described(check: &mut Check, profile: pb::NearbyPoiProfile) -> AddNearbyPoi {
    let pb::NearbyPoiProfile {
        name,
        map_poi_id,
        address,
        picture_urls,
        contact_phone,
        hours,
        company_name,
        license_number,
        qualification_media_ids: papers,
        service_labels,
        customer_service,
    } = profile;
    AddNearbyPoi {
        poi_id: PoiId::default(),
        store_name: check.required("profile.name", name),
        map_poi_id: check.formed_if_any("profile.map_poi_id", map_poi_id, &Form::MAP_POI_ID).into(),
        address: check.required("profile.address", address),
        pic_list: Quoted(PicList {
            list: check.pictures("profile.picture_urls", picture_urls, MOST_PICTURES),
        }),
        contract_phone: check.formed("profile.contact_phone", contact_phone, &Form::PHONE),
        hour: check.hours("profile.hours", hours),
        company_name: check.required("profile.company_name", company_name),
        credential: check.formed("profile.license_number", license_number, &Form::LICENSE_NUMBER),
        qualification_list: check.documents("profile.qualification_media_ids", papers),
        service_infos: Quoted(labels(check, service_labels)),
        kf_info: Quoted(chat(check, customer_service)),
    }
}

fn labels(check: &mut Check, labels: Vec<pb::ServiceLabel>) -> ServiceInfos {
    let field = "profile.service_labels";
    if labels.is_empty() {
        check.refuse(field, "required");
    }
    let custom = labels.iter().filter(|label| label.kind() == Kind::Custom).count();
    if custom > MOST_CUSTOM_LABELS {
        check.refuse(field, format!("at most {MOST_CUSTOM_LABELS} of NEARBY_SERVICE_KIND_CUSTOM"));
    }
    if labels.len() - custom > MOST_STANDARD_LABELS {
        check.refuse(field, format!("at most {MOST_STANDARD_LABELS} of WeChat's own kinds"));
    }
    let labels = labels.into_iter().enumerate();
    let service_infos =
        labels.map(|(index, one)| label(check, &format!("{field}[{index}]"), one)).collect();
    ServiceInfos { service_infos }
}

fn label(check: &mut Check, field: &str, label: pb::ServiceLabel) -> ServiceInfo {
    let kind = label.kind();
    let pb::ServiceLabel { kind: _, custom_name, app_id, path, description } = label;
    let of = |name: &str| format!("{field}.{name}");
    if kind == Kind::Unspecified {
        check.refuse(of("kind"), "required");
    }
    let (id, kind, name) = match standard(kind) {
        Some((id, name)) => {
            if !custom_name.is_empty() {
                check.refuse(of("custom_name"), "only with NEARBY_SERVICE_KIND_CUSTOM");
            }
            (id, 1, name.to_owned())
        }
        None => {
            if kind == Kind::Custom && custom_name.trim().is_empty() {
                check.refuse(of("custom_name"), "required");
            }
            if kind == Kind::Custom && !description.is_empty() {
                check.refuse(of("description"), "not with NEARBY_SERVICE_KIND_CUSTOM");
            }
            (0, 2, check.at_most(&of("custom_name"), custom_name, LABEL_CHARACTERS))
        }
    };
    ServiceInfo {
        id,
        kind,
        name,
        appid: check.formed(&of("app_id"), app_id, &Form::APP_ID).into(),
        path: check.page_path(&of("path"), path),
        desc: check.at_most(&of("description"), description, LABEL_CHARACTERS),
    }
}

/// Returns WeChat's id and name of a label (服务标签 id 编号、类型与服务名称表).
fn standard(kind: Kind) -> Option<(u8, &'static str)> {
    Some(match kind {
        Kind::Unspecified | Kind::Custom => return None,
        Kind::Delivery => (1, "外送"),
        Kind::Express => (2, "快递"),
        Kind::Charging => (3, "充电"),
        Kind::Appointment => (4, "预约"),
        Kind::HospitalRegistration => (5, "挂号"),
        Kind::MealOrdering => (6, "点餐"),
        Kind::Discount => (7, "优惠"),
        Kind::Ride => (8, "乘车"),
        Kind::Membership => (9, "会员"),
        Kind::Checkout => (10, "买单"),
        Kind::Queueing => (11, "排队"),
        Kind::FeePayment => (12, "缴费"),
        Kind::Tickets => (13, "购票"),
        Kind::Pickup => (14, "到店自提"),
        Kind::Booking => (15, "预订"),
    })
}

fn chat(check: &mut Check, chat: Option<pb::CustomerService>) -> KfInfo {
    let pb::CustomerService { open, avatar_url, name } = chat.unwrap_or_default();
    let field = "profile.customer_service.avatar_url";
    let avatar = check.formed_if_any(field, avatar_url, &Form::PICTURE);
    let name = check.optional("profile.customer_service.name", name);
    KfInfo { open_kf: open, kf_headimg: open.then_some(avatar), kf_name: open.then_some(name) }
}

impl WriteCall for AddNearbyPoi {
    fn expected_effect(&self) -> Option<ExpectedEffect> {
        let hash = place_fingerprint(&self.credential, &self.address);
        let poi_id = self.poi_id.to_string();
        Some(ExpectedEffect::NearbyPoi(NearbyPoiFingerprint { poi_id, hash }))
    }
}

/// Returns the hash that identifies a listed place in [`ExpectedEffect::NearbyPoi`].
pub(crate) fn place_fingerprint(credential: &str, address: &str) -> Bytes {
    fingerprint::of_pair(credential, address)
}

impl ReviewedCall for AddNearbyPoi {
    fn review(&self, AddNearbyPoiReply { data }: &AddNearbyPoiReply) -> Review {
        let AddedNearbyPoi { audit_id, poi_id: new, related_credential: _ } = data.clone();
        Review {
            kind: SubmissionKind::NearbyPoi,
            audit_id,
            poi_id: if new.is_empty() { self.poi_id.clone() } else { new },
            map_poi_id: self.map_poi_id.clone(),
            ..Review::default()
        }
    }
}

/// Returns the response for a new place.
pub(crate) fn added(
    AddNearbyPoiReply { data }: AddNearbyPoiReply,
    submission: pb::Submission,
) -> pb::AddNearbyPoiResponse {
    let AddedNearbyPoi { audit_id: _, poi_id, related_credential } = data;
    pb::AddNearbyPoiResponse {
        submission: Some(submission),
        recovered: false,
        nearby_poi_id: poi_id.into(),
        license_number: related_credential.0,
    }
}

/// Returns the response for a replaced place.
pub(crate) fn replaced(
    reply: AddNearbyPoiReply,
    submission: pb::Submission,
) -> pb::ReplaceNearbyPoiResponse {
    let pb::AddNearbyPoiResponse { submission, recovered, nearby_poi_id: _, license_number } =
        added(reply, submission);
    pb::ReplaceNearbyPoiResponse { submission, recovered, license_number }
}

impl TryFrom<pb::ListNearbyPoisRequest> for WantedRows {
    type Error = Invalid;

    fn try_from(
        pb::ListNearbyPoisRequest { app_id: _, page_size, page_token }: pb::ListNearbyPoisRequest,
    ) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let size = check.page_size(page_size, DEFAULT_PAGE_SIZE, MOST_ROWS);
        check.done(Self { size, token: page_token })
    }
}

impl From<ListedNearbyPoi> for pb::NearbyPoi {
    fn from(row: ListedNearbyPoi) -> Self {
        let ListedNearbyPoi {
            poi_id,
            qualification_address,
            qualification_num,
            audit_status,
            display_status,
            refuse_reason: Text(reason),
            audit_id,
            unreadable,
        } = row;
        Self {
            nearby_poi_id: poi_id.into(),
            address: qualification_address.0,
            license_number: qualification_num.0,
            state: listed_state(audit_status).into(),
            wechat_status: audit_status.0,
            reason,
            visible: is_shown(display_status),
            wechat_display_status: display_status.0,
            audit_id: audit_id.into(),
            unreadable_fields: unreadable,
        }
    }
}

/// The `audit_status` of getnearbypoilist (3: 审核中, 4: 审核失败, 5: 审核通过).
fn listed_state(audit_status: Int) -> AuditState {
    match audit_status.0 {
        Some(3) => AuditState::InReview,
        Some(4) => AuditState::Rejected,
        Some(5) => AuditState::Approved,
        _ => AuditState::Unspecified,
    }
}

/// The `display_status` of getnearbypoilist (0: 未展示, 1: 展示中).
fn is_shown(display_status: Int) -> bool {
    display_status.0 == Some(1)
}

impl TryFrom<pb::DeleteNearbyPoiRequest> for DelNearbyPoi {
    type Error = Invalid;

    fn try_from(
        pb::DeleteNearbyPoiRequest { app_id: _, request_id: _, nearby_poi_id }: pb::DeleteNearbyPoiRequest,
    ) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let poi_id = check.formed("nearby_poi_id", nearby_poi_id, &Form::POI_ID).into();
        check.done(Self { poi_id })
    }
}

impl WriteCall for DelNearbyPoi {
    fn expected_effect(&self) -> Option<ExpectedEffect> {
        Some(ExpectedEffect::NearbyPoiDeleted(self.poi_id.to_string()))
    }
}

impl From<Done> for pb::DeleteNearbyPoiResponse {
    fn from(Done {}: Done) -> Self {
        Self { recovered: false }
    }
}

impl TryFrom<pb::SetNearbyPoiVisibilityRequest> for SetNearbyPoiShowStatus {
    type Error = Invalid;

    fn try_from(request: pb::SetNearbyPoiVisibilityRequest) -> Result<Self, Invalid> {
        let pb::SetNearbyPoiVisibilityRequest { app_id: _, request_id: _, nearby_poi_id, visible } =
            request;
        let mut check = Check::default();
        let poi_id = check.formed("nearby_poi_id", nearby_poi_id, &Form::POI_ID).into();
        if visible.is_none() {
            check.refuse("visible", "required");
        }
        check.done(Self { poi_id, status: u8::from(visible.unwrap_or_default()) })
    }
}

impl WriteCall for SetNearbyPoiShowStatus {}

impl From<Done> for pb::SetNearbyPoiVisibilityResponse {
    fn from(Done {}: Done) -> Self {
        Self { recovered: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label_of(kind: Kind, custom_name: &str, description: &str) -> pb::ServiceLabel {
        pb::ServiceLabel {
            kind: kind.into(),
            custom_name: custom_name.to_owned(),
            app_id: "wx1373169e494e0c39".to_owned(),
            path: "index".to_owned(),
            description: description.to_owned(),
        }
    }

    fn profile() -> pb::NearbyPoiProfile {
        pb::NearbyPoiProfile {
            name: "黄焖鸡米饭(人民路店)".to_owned(),
            map_poi_id: "3032309022625412345".to_owned(),
            address: "江苏省宿迁市泗洪县".to_owned(),
            picture_urls: vec!["http://mmbiz.qpic.cn/a/0".to_owned()],
            contact_phone: "18071000000".to_owned(),
            hours: Some(pb::OpeningHours {
                open: "00:00".to_owned(),
                close: "23:59".to_owned(),
                text: String::new(),
            }),
            company_name: "阿庆小吃部".to_owned(),
            license_number: "92321324MA24000000".to_owned(),
            qualification_media_ids: vec!["rNdN".to_owned()],
            service_labels: vec![
                label_of(Kind::Express, "", ""),
                label_of(Kind::Custom, "自定义", ""),
            ],
            customer_service: None,
        }
    }

    fn add(profile: pb::NearbyPoiProfile) -> Result<AddNearbyPoi, Vec<String>> {
        let profile = Some(profile);
        AddNearbyPoi::try_from(pb::AddNearbyPoiRequest { profile, ..Default::default() }).map_err(
            |invalid| {
                invalid.violations().iter().map(|violation| violation.field.clone()).collect()
            },
        )
    }

    #[test]
    fn nearby_place_matches_the_document() {
        let sent = serde_json::to_string(&add(profile()).expect("valid")).expect("JSON");
        for part in [
            r#""is_comm_nearby":"1""#,
            r#""pic_list":"{\"list\":[\"http://mmbiz.qpic.cn/a/0\"]}""#,
            r#""service_infos":"{\"service_infos\":[{\"id\":2,\"type\":1,\"name\":\"快递\",\"appid\":\"wx1373169e494e0c39\",\"path\":\"index\"},{\"id\":0,\"type\":2,\"name\":\"自定义\",\"appid\":\"wx1373169e494e0c39\",\"path\":\"index\"}]}""#,
            r#""kf_info":"{\"open_kf\":false}""#,
            r#""store_name":"黄焖鸡米饭(人民路店)""#,
            r#""contract_phone":"18071000000""#,
            r#""hour":"00:00-23:59""#,
            r#""qualification_list":"rNdN""#,
            r#""map_poi_id":"3032309022625412345""#,
        ] {
            assert!(sent.contains(part), "{part}\nis not in\n{sent}");
        }
        assert!(!sent.contains("poi_id\":\"\"") && !sent.contains("\\u"), "{sent}");

        let replace = AddNearbyPoi::try_from(pb::ReplaceNearbyPoiRequest {
            nearby_poi_id: "112333".to_owned(),
            profile: Some(pb::NearbyPoiProfile {
                customer_service: Some(pb::CustomerService {
                    open: true,
                    name: "Harden".to_owned(),
                    ..Default::default()
                }),
                ..profile()
            }),
            ..Default::default()
        });
        let sent = serde_json::to_value(replace.expect("valid")).expect("JSON");
        assert_eq!(sent["poi_id"], "112333");
        assert_eq!(sent["kf_info"], r#"{"open_kf":true,"kf_headimg":"","kf_name":"Harden"}"#);
    }

    #[test]
    fn every_label_kind_has_wechats_id_and_name() {
        let names: Vec<_> = (2..=16)
            .map(|kind| standard(Kind::try_from(kind).expect("a kind")).expect("a name"))
            .collect();
        let expected =
            "外送 快递 充电 预约 挂号 点餐 优惠 乘车 会员 买单 排队 缴费 购票 到店自提 预订";
        let expected: Vec<_> = (1..).zip(expected.split(' ')).collect();
        assert_eq!(names, expected);
        assert_eq!((standard(Kind::Custom), Kind::try_from(17).ok()), (None, None));
    }

    #[test]
    fn invalid_labels_are_rejected() {
        let refused = |labels: Vec<pb::ServiceLabel>| {
            add(pb::NearbyPoiProfile { service_labels: labels, ..profile() }).map(|_| ())
        };
        let field = |name: &str| Err(vec![format!("profile.service_labels{name}")]);
        let unknown = pb::ServiceLabel { kind: 99, ..label_of(Kind::Ride, "", "") };
        let own = label_of(Kind::Custom, "自定义", "");
        let ride = label_of(Kind::Ride, "", "十个字以内的新品优惠");
        assert_eq!(refused(vec![]), field(""));
        assert_eq!(refused([vec![ride.clone(); 5], vec![own.clone(); 4]].concat()), Ok(()));
        assert_eq!(refused(vec![ride; 6]), field(""));
        assert_eq!(refused(vec![own.clone(); 5]), field(""));
        assert_eq!(refused(vec![unknown]), field("[0].kind"));
        assert_eq!(
            refused(vec![own.clone(), label_of(Kind::Custom, "", "")]),
            field("[1].custom_name")
        );
        assert_eq!(refused(vec![label_of(Kind::Ride, "乘车", "")]), field("[0].custom_name"));
        assert_eq!(refused(vec![label_of(Kind::Custom, "自定", "新")]), field("[0].description"));
        assert_eq!(
            refused(vec![label_of(Kind::Ride, "", "十一个字以内的新品优惠")]),
            field("[0].description")
        );
        assert_eq!(
            refused(vec![pb::ServiceLabel { path: String::new(), ..own }]),
            field("[0].path")
        );
    }

    #[test]
    fn nearby_place_needs_its_whole_profile() {
        let fields = add(pb::NearbyPoiProfile::default()).expect_err("empty");
        let expected = "name address picture_urls contact_phone hours company_name license_number service_labels";
        let expected: Vec<_> = expected.split(' ').map(|name| format!("profile.{name}")).collect();
        assert_eq!(fields, expected);
        let none = AddNearbyPoi::try_from(pb::ReplaceNearbyPoiRequest::default());
        let none = none.expect_err("nothing").violations().len();
        assert_eq!(none, 2, "nearby_poi_id and profile");
    }

    #[test]
    fn listed_place_has_its_own_tables() {
        let row = r#"{"poi_id":"123456","qualification_address":"广东省广州市海珠区","qualification_num":
            "1111","audit_status":4,"display_status":"1","refuse_reason":"理由"}"#;
        let row: ListedNearbyPoi = serde_json::from_str(row).expect("the documented form");
        let poi = pb::NearbyPoi::from(row);
        assert_eq!(
            (&*poi.nearby_poi_id, poi.state(), poi.visible),
            ("123456", AuditState::Rejected, true)
        );
        assert_eq!((&*poi.address, &*poi.reason), ("广东省广州市海珠区", "理由"));

        let states = [2, 3, 4, 5, 6].map(|status| listed_state(Int(Some(status))));
        use AuditState::{Approved, InReview, Rejected, Unspecified};
        assert_eq!(states, [Unspecified, InReview, Rejected, Approved, Unspecified]);
        assert_eq!(listed_state(Int(None)), Unspecified);
    }
}
