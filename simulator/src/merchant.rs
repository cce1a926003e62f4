//! The merchant: the store mini program (门店小程序) that an account must open before it can have
//! stores.
//!
//! Each account starts with a merchant that was approved long ago. Until the administrator confirms
//! an application, get_merchant_audit_info returns status 0, “未提交审核”, beside its audit_id.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::{
    audit::{self, Audit, Ending, Kind, State},
    endpoint::{Bearer, Call, Endpoint, done, done_with},
    error::Refusal,
    media,
    world::World,
};

/// A name that contains one of these needs proof.
const NEEDS_PROOF: &[&str] = &["银行", "医院", "大学"];
/// A name that contains one of these is refused (“不能含有特殊字符及“微信”等保留字”).
const RESERVED: &[&str] = &["微信", "wechat", "weixin", "腾讯"];
/// An avatar or an introduction may change this often in a month. WeChat publishes no number.
const CHANGES_A_MONTH: usize = 5;
const DAYS_A_MONTH: u64 = 30;

/// A third party needs one of these permission sets (权限集).
const SETS: &[u16] = &[8, 9, 10, 13];

/// The endpoints of this family. A report of apply_merchant without permission has 48001, not 61007.
pub(super) const ROUTES: &[Endpoint] = &[
    Endpoint::get("/wxa/get_merchant_category", Bearer::Anyone, categories)
        .permission_sets(&[8, 9, 10, 13, 37]),
    Endpoint::post("/wxa/apply_merchant", Bearer::Official, apply)
        .permission_sets(SETS)
        .lacking(48001),
    Endpoint::get("/wxa/get_merchant_audit_info", Bearer::Official, audit_info)
        .permission_sets(SETS),
    Endpoint::post("/wxa/modify_merchant", Bearer::Official, modify).permission_sets(SETS),
];

/// An account's store mini program, or its latest application for one.
#[derive(Debug, Default)]
pub(super) struct Merchant {
    nickname: String,
    intro: String,
    /// Whether an application was approved.
    exists: bool,
    audit_id: u64,
    applied: Option<Applied>,
    /// The days of this month's changes.
    changes: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Applied {
    nickname: String,
    intro: String,
}

impl Merchant {
    /// Returns the merchant with which every account starts.
    pub(super) fn approved(app_id: &str) -> Self {
        let nickname = format!("门店{app_id}");
        Self {
            nickname,
            intro: "门店".to_owned(),
            exists: true,
            audit_id: 414_513_000,
            ..Self::default()
        }
    }

    /// Returns whether the account may have stores.
    pub(super) const fn exists(&self) -> bool {
        self.exists
    }

    pub(super) fn describe(&self) -> Value {
        json!({ "exists": self.exists, "nickname": self.nickname, "intro": self.intro })
    }

    fn has_name(&self, nickname: &str) -> bool {
        self.nickname == nickname
            || self.applied.as_ref().is_some_and(|one| one.nickname == nickname)
    }
}

/// `GET /wxa/get_merchant_category` — 拉取门店小程序类目
///
/// Each node lists its children by id. `father`, `sensitive_type`, `scene` and `qualify` are absent
/// if they would be empty.
fn categories(_: &mut World, _: &Call) -> Result<Value, Refusal> {
    let all = json!({ "all_category_info": { "categories": *CATEGORIES } });
    Ok(done_with("data", all))
}

/// A first-level category with those below it: id, name, and the document that it requires.
type Family = (u64, &'static str, &'static [(u64, &'static str, Option<&'static str>)]);

#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    (269, "餐饮", &[(270, "中餐", Some("《食品经营许可证》")), (271, "快餐", Some("《食品经营许可证》")),
        (272, "咖啡馆", Some("《食品经营许可证》")), (273, "茶馆", None)]),
    (278, "购物", &[(279, "百货", None),
        (280, "便利店", Some("若涉及食品，请提供《食品经营许可证》或《卫生许可证》")),
        (281, "家具", None), (282, "书店", Some("《出版物经营许可证》"))]),
    (300, "生活服务", &[(301, "美容美发", Some("《卫生许可证》")), (302, "洗衣", None),
        (303, "摄影", None), (304, "宠物", None)]),
    (330, "汽车", &[(331, "洗车", None), (332, "汽车维修", Some("《道路运输经营许可证》"))]),
    (360, "休闲娱乐", &[(361, "健身中心", None), (362, "影院", Some("《电影放映经营许可证》"))]),
    (476, "丽人", &[(477, "美甲", None), (478, "瑜伽", None)]),
];

static CATEGORIES: LazyLock<Value> = LazyLock::new(|| {
    let first: Vec<_> = FAMILIES.iter().map(|(id, ..)| *id).collect();
    let mut nodes = vec![json!({ "id": 0, "name": "root", "level": 0, "children": first })];
    for (id, name, below) in FAMILIES {
        let children: Vec<_> = below.iter().map(|(id, ..)| *id).collect();
        nodes.push(json!({
            "id": id, "name": name, "level": 1, "father": 0, "children": children,
        }));
        nodes.extend(below.iter().map(|(leaf, name, document)| {
            let mut node = json!({
                "id": leaf, "name": name, "level": 2, "father": id, "children": [],
                "scene": 3, "sensitive_type": i32::from(document.is_some()),
            });
            if let Some(document) = document {
                node["qualify"] =
                    json!({ "exter_list": [{ "inner_list": [{ "name": document }] }] });
            }
            node
        }));
    }
    Value::Array(nodes)
});

/// `POST /wxa/apply_merchant` — 创建门店小程序
///
/// The reply has no audit_id. A second application is refused while the first one waits or is in
/// review (85050). An account that has a merchant is refused as well (85028, our choice).
fn apply(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let nickname = call.text("nickname")?;
    let intro = call.text("intro")?;
    let documents = call.optional_text("qualification_list")?;
    let avatar = call.text("headimg_mediaid")?;
    let (proof, more) = (call.optional_text("org_code")?, call.optional_text("other_files")?);
    check_category(call, documents)?;
    check_name(world, &call.app_id, nickname)?;
    if NEEDS_PROOF.iter().any(|word| nickname.contains(word)) && proof.is_empty() {
        return Err(Refusal::new(85024));
    }
    for ids in [documents, avatar, proof, more] {
        media::check_list(world, &call.app_id, ids)?;
    }
    let merchant = &world.tenant(&call.app_id)?.merchant;
    let (exists, previous) = (merchant.exists, merchant.audit_id);
    if world.audits.get(&previous).is_some_and(|audit| audit.state.is_open()) {
        return Err(Refusal::new(85050));
    }
    if exists {
        return Err(Refusal::new(85028));
    }
    let audit_id = audit::open(world, call, Kind::ApplyMerchant, nickname);
    let merchant = &mut world.tenant(&call.app_id)?.merchant;
    merchant.applied = Some(Applied { nickname: nickname.to_owned(), intro: intro.to_owned() });
    merchant.audit_id = audit_id;
    Ok(done())
}

/// Checks that the second category is below the first one, and that a sensitive category comes with
/// documents.
fn check_category(call: &Call, documents: &str) -> Result<(), Refusal> {
    let (first, second) = (call.number("first_catid")?, call.number("second_catid")?);
    let mut nodes = CATEGORIES.as_array().into_iter().flatten();
    let node = nodes.find(|node| node["id"] == second && node["father"] == first);
    let node = node.filter(|node| node["level"] == 2).ok_or(Refusal::new(40097))?;
    let satisfied = node["sensitive_type"] != 1 || !documents.is_empty();
    if satisfied { Ok(()) } else { Err(Refusal::new(40097)) }
}

/// Checks a name: 4 to 30 units, of which a Chinese character counts two.
fn check_name(world: &World, app_id: &str, nickname: &str) -> Result<(), Refusal> {
    let units: usize = nickname.chars().map(|one| if one.is_ascii() { 1 } else { 2 }).sum();
    let lower = nickname.to_lowercase();
    let reserved = RESERVED.iter().any(|word| lower.contains(word));
    let special = nickname.chars().any(|one| !one.is_alphanumeric() && !"()（）·-".contains(one));
    if !(4..=30).contains(&units) || reserved || special {
        return Err(Refusal::new(85030));
    }
    let mut others = world.accounts.iter().filter(|(other, _)| *other != app_id);
    let taken = others.any(|(_, tenant)| tenant.merchant.has_name(nickname));
    if taken { Err(Refusal::new(85029)) } else { Ok(()) }
}

/// `GET /wxa/get_merchant_audit_info` — 查询门店小程序审核结果
fn audit_info(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    let merchant = &world.tenant(&call.app_id)?.merchant;
    let (audit_id, exists) = (merchant.audit_id, merchant.exists);
    let (status, reason) = match world.audits.get(&audit_id) {
        Some(audit) => (status(audit.state), audit.reason.clone()),
        None => (i64::from(exists), String::new()),
    };
    Ok(done_with("data", json!({ "audit_id": audit_id, "status": status, "reason": reason })))
}

/// Returns WeChat's number: 0 not submitted, 1 passed, 2 in review, 3 failed, 4 refused by the
/// administrator.
const fn status(state: State) -> i64 {
    match state {
        State::Approved => 1,
        State::AwaitingAdmin | State::Lapsed | State::Withdrawn => 0,
        State::Declined => 4,
        State::Pending => 2,
        State::Rejected => 3,
    }
}

/// `POST /wxa/modify_merchant` — 修改门店小程序信息
///
/// Both fields are required. An empty one changes nothing (“如果不想改，参数传空值”).
fn modify(world: &mut World, call: &Call) -> Result<Value, Refusal> {
    if !["headimg_mediaid", "intro"].iter().all(|name| call.fields.contains_key(*name)) {
        return Err(Refusal::new(40097));
    }
    let (avatar, intro) = (call.optional_text("headimg_mediaid")?, call.optional_text("intro")?);
    media::check_list(world, &call.app_id, avatar)?;
    let today = world.moment().day;
    let merchant = &mut world.tenant(&call.app_id)?.merchant;
    if !merchant.exists {
        return Err(Refusal::new(85053));
    }
    if avatar.is_empty() && intro.is_empty() {
        return Ok(done());
    }
    merchant.changes.retain(|day| day / DAYS_A_MONTH == today / DAYS_A_MONTH);
    if merchant.changes.len() >= CHANGES_A_MONTH {
        return Err(Refusal::new(85049));
    }
    merchant.changes.push(today);
    if !intro.is_empty() {
        intro.clone_into(&mut merchant.intro);
    }
    Ok(done())
}

/// Applies the end of a merchant's review.
pub(super) fn decided(world: &mut World, audit: &Audit) -> Option<Ending> {
    let merchant = &mut world.accounts.get_mut(&audit.app_id)?.merchant;
    if audit.state == State::Approved {
        let Applied { nickname, intro } = merchant.applied.take()?;
        (merchant.nickname, merchant.intro, merchant.exists) = (nickname, intro, true);
    }
    let fields = vec![("reason", json!(audit.reason))];
    Some(Ending { result: None, status: status(audit.state), fields })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    #[test]
    fn name_length_counts_units() {
        let world = World::new(Settings::default());
        let code = |name: &str| check_name(&world, "wx1", name).map_err(|refusal| refusal.errcode);
        assert_eq!(code("江南"), Ok(()));
        assert_eq!(code("abc"), Err(85030));
        assert_eq!(code(&"茶".repeat(15)), Ok(()));
        assert_eq!(code(&"茶".repeat(16)), Err(85030));
        assert_eq!(code("微信茶铺"), Err(85030));
        assert_eq!(code("门店wx0000000000000001"), Err(85029));
    }
}
