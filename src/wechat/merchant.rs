//! The store mini program itself (门店小程序).

use http::Method;
use serde::{Deserialize, Serialize};

use super::{AccountKinds, Done, Endpoint, Int, List, Need, Proof, Rows, Safety, Text};
use crate::util::id::{AuditId, MediaId};

endpoints![ApplyMerchant, GetMerchantAuditInfo, GetMerchantCategory, ModifyMerchant];

/// `GET /wxa/get_merchant_category` — 拉取门店小程序类目
///
/// Returns the categories that a store mini program can have.
#[derive(Debug, Serialize)]
pub struct GetMerchantCategory {}

/// Answers [`GetMerchantCategory`].
#[derive(Debug, Default, Deserialize)]
pub struct GetMerchantCategoryReply {
    /// All there is.
    pub data: CategoryData,
}

/// A wrapper of WeChat's.
#[derive(Debug, Default, Deserialize)]
pub struct CategoryData {
    /// Another one.
    pub all_category_info: AllCategoryInfo,
}

/// The tree of categories.
#[derive(Debug, Default, Deserialize)]
pub struct AllCategoryInfo {
    /// Its nodes in a flat list, with the root.
    pub categories: Rows<CategoryNode>,
}

/// A category (类目), or the root of all.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CategoryNode {
    /// Its id; 0 for the root.
    pub id: Text,
    /// Its name; `root` for the root.
    pub name: Text,
    /// 0 for the root, 1 for the first level (一级类目), 2 for the second (二级类目).
    pub level: Int,
    /// The id of the node above. Missing at the root.
    pub father: Text,
    /// The ids of the nodes beneath.
    pub children: List<Text>,
    /// 1 where an application needs documents. Missing above the second level, whatever the
    /// document says.
    pub sensitive_type: Int,
    /// These documents. Missing where there are none.
    pub qualify: Option<Qualify>,
}

impl CategoryNode {
    /// Whether this is WeChat's root, which is no category.
    pub fn is_root(&self) -> bool {
        self.id.0 == "0"
    }
}

/// Documents (证件) of a category.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Qualify {
    /// Groups of documents (sic: `exter`).
    pub exter_list: List<QualifyGroup>,
}

/// A group of documents.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct QualifyGroup {
    /// The documents.
    pub inner_list: List<QualifyDocument>,
}

/// A document.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct QualifyDocument {
    /// Its name, or the condition under which it is needed.
    pub name: Text,
}

impl Endpoint for GetMerchantCategory {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/wxa/get_merchant_category";
    const ACCOUNT: AccountKinds = AccountKinds::Any;
    const SAFETY: Safety = Safety::Read;
    const PERMISSION_SETS: &'static [u8] = &[8, 9, 10, 13, 37];
    const WHOLE: &'static [Need] = &[Need::Filled("data.all_category_info.categories")];
    const SALVAGED: bool = false;
    type Reply = GetMerchantCategoryReply;

    /// A tree has more than its root, and its nodes have ids: they refer to each other by them.
    fn is_whole(reply: &GetMerchantCategoryReply) -> bool {
        let nodes = &reply.data.all_category_info.categories.0;
        nodes.iter().any(|node| !node.is_root()) && nodes.iter().all(|node| !node.id.0.is_empty())
    }
}

/// `POST /wxa/apply_merchant` — 创建门店小程序
///
/// Applies for the account's store mini program. The reply has no audit_id: the event brings it.
#[derive(Debug, Serialize)]
pub struct ApplyMerchant {
    /// The first-level category.
    pub first_catid: u64,
    /// The second-level category.
    pub second_catid: u64,
    /// 0 to 5 temporary media ids, joined by `|`, where the category needs documents.
    pub qualification_list: String,
    /// The avatar.
    pub headimg_mediaid: MediaId,
    /// The name.
    pub nickname: String,
    /// What it is about.
    pub intro: String,
    /// The business licence; empty unless 85024 asked for it.
    pub org_code: MediaId,
    /// 0 to 5 temporary media ids, joined by `|`; empty unless 85024 asked for them.
    pub other_files: String,
}

impl Endpoint for ApplyMerchant {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/wxa/apply_merchant";
    const ACCOUNT: AccountKinds = AccountKinds::Official;
    const SAFETY: Safety = Safety::Once(Proof::MerchantAudit);
    const PERMISSION_SETS: &'static [u8] = &[8, 9, 10, 13];
    const WHOLE: &'static [Need] = &[];
    type Reply = Done;
}

/// `GET /wxa/get_merchant_audit_info` — 查询门店小程序审核结果
///
/// Returns where the application stands. Today's page asks for an `audit_id` in the body of this
/// GET; its own sample and the older document send none.
#[derive(Debug, Serialize)]
pub struct GetMerchantAuditInfo {}

/// Answers [`GetMerchantAuditInfo`].
#[derive(Debug, Default, Deserialize)]
pub struct GetMerchantAuditInfoReply {
    /// All there is.
    pub data: MerchantAuditInfo,
}

/// The review of an application.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MerchantAuditInfo {
    /// The review.
    pub audit_id: AuditId,
    /// 0 not submitted, 1 passed, 2 in review, 3 failed, 4 refused by the administrator.
    pub status: Int,
    /// Why, for 3 and 4.
    pub reason: Text,
    /// The fields that could not be read.
    #[serde(rename = "$unreadable")]
    pub unreadable: Vec<String>,
}

impl Endpoint for GetMerchantAuditInfo {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/wxa/get_merchant_audit_info";
    const ACCOUNT: AccountKinds = AccountKinds::Official;
    const SAFETY: Safety = Safety::Read;
    const PERMISSION_SETS: &'static [u8] = &[8, 9, 10, 13];
    const WHOLE: &'static [Need] = &[Need::Number("data.status")];
    type Reply = GetMerchantAuditInfoReply;

    fn is_whole(reply: &GetMerchantAuditInfoReply) -> bool {
        reply.data.status.0.is_some()
    }
}

/// `POST /wxa/modify_merchant` — 修改门店小程序信息
///
/// Changes the avatar or the introduction. Both fields have to be there; empty means unchanged
/// (如果不想改,参数传空值).
#[derive(Debug, Serialize)]
pub struct ModifyMerchant {
    /// The new avatar.
    pub headimg_mediaid: MediaId,
    /// The new introduction.
    pub intro: String,
}

impl Endpoint for ModifyMerchant {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/wxa/modify_merchant";
    const ACCOUNT: AccountKinds = AccountKinds::Official;
    const SAFETY: Safety = Safety::Repeatable;
    const PERMISSION_SETS: &'static [u8] = &[8, 9, 10, 13];
    const WHOLE: &'static [Need] = &[];
    type Reply = Done;
}
