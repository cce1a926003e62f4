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
pub(crate) struct GetMerchantCategory {}

/// The reply to [`GetMerchantCategory`].
#[derive(Debug, Default, Deserialize)]
pub struct GetMerchantCategoryReply {
    /// The payload of the reply.
    pub data: CategoryData,
}

/// A wrapper of WeChat's around the categories.
#[derive(Debug, Default, Deserialize)]
pub struct CategoryData {
    /// A second wrapper.
    pub all_category_info: AllCategoryInfo,
}

/// The tree of categories.
#[derive(Debug, Default, Deserialize)]
pub struct AllCategoryInfo {
    /// Its nodes in a flat list, including the root.
    pub categories: Rows<CategoryNode>,
}

/// A category (类目), or the root of all.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CategoryNode {
    /// Its id, 0 for the root.
    pub id: Text,
    /// Its name, `root` for the root.
    pub name: Text,
    /// 0 for the root, 1 for the first level (一级类目), 2 for the second (二级类目).
    pub level: Int,
    /// The id of the parent node. Missing at the root.
    pub father: Text,
    /// The ids of the child nodes.
    pub children: List<Text>,
    /// 1 if an application needs documents. Missing above the second level, although the document
    /// shows it there.
    pub sensitive_type: Int,
    /// The required documents. Missing if there are none.
    pub qualify: Option<Qualify>,
}

impl CategoryNode {
    /// Returns true if this is WeChat's root, which is not a category.
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
    /// The name of the document, or the condition under which it is required.
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

    /// Returns false if the tree has only its root or if a node has no id, because nodes refer to
    /// each other by id.
    fn is_whole(reply: &GetMerchantCategoryReply) -> bool {
        let nodes = &reply.data.all_category_info.categories.0;
        nodes.iter().any(|node| !node.is_root()) && nodes.iter().all(|node| !node.id.0.is_empty())
    }
}

/// `POST /wxa/apply_merchant` — 创建门店小程序
///
/// Applies for the account's store mini program. The reply has no audit_id. The event has it.
#[derive(Debug, Serialize)]
pub(crate) struct ApplyMerchant {
    /// The first-level category.
    pub first_catid: u64,
    /// The second-level category.
    pub second_catid: u64,
    /// 0 to 5 temporary media ids, joined by `|`, if the category needs documents.
    pub qualification_list: String,
    /// The avatar.
    pub headimg_mediaid: MediaId,
    /// The name.
    pub nickname: String,
    /// The introduction.
    pub intro: String,
    /// The business license. Empty unless 85024 asked for it.
    pub org_code: MediaId,
    /// 0 to 5 temporary media ids, joined by `|`. Empty unless 85024 asked for them.
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
/// Returns the state of the application. Today's page asks for an `audit_id` in the body of this
/// GET. Its own sample and the older document send none.
#[derive(Debug, Serialize)]
pub(crate) struct GetMerchantAuditInfo {}

/// The reply to [`GetMerchantAuditInfo`].
#[derive(Debug, Default, Deserialize)]
pub struct GetMerchantAuditInfoReply {
    /// The payload of the reply.
    pub data: MerchantAuditInfo,
}

/// The review of an application.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MerchantAuditInfo {
    /// The id of the review.
    pub audit_id: AuditId,
    /// 0 not submitted, 1 passed, 2 in review, 3 failed, 4 refused by the administrator.
    pub status: Int,
    /// The reason, for 3 and 4.
    pub reason: Text,
    /// The fields that are unreadable.
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
/// Changes the avatar or the introduction. Both fields must be present, and an empty one means
/// unchanged (如果不想改,参数传空值).
#[derive(Debug, Serialize)]
pub(crate) struct ModifyMerchant {
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
