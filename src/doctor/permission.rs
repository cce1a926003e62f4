//! Checks the permission sets (权限集) of an account with one harmless read per API family.

use tonic::Code;
use tonic_types::StatusExt;

use super::{
    Check,
    account::{Trouble, read},
};
use crate::{
    config::{Account, AccountKind},
    util::id::PoiId,
    wechat::{
        AccessToken, AccountKinds, Client, Endpoint, card::GetCard, merchant::GetMerchantCategory,
        nearby::GetNearbyPoiList, store::GetStoreList,
    },
};

const CHECK: &str = "permission";
/// No account has this store. The card API still shows whether the account may call it.
const NO_STORE: &str = "1";

/// Every family with its read.
const FAMILIES: [Family; 4] = [
    Family::of::<GetMerchantCategory>("merchant"),
    Family::of::<GetStoreList>("store"),
    Family::of::<GetCard>("card"),
    Family::of::<GetNearbyPoiList>("nearby"),
];

/// The facts of a family's read.
struct Family {
    name: &'static str,
    path: &'static str,
    /// The accounts that can use it.
    needed: AccountKinds,
    /// Whether cloud hosting can use it.
    cloud: bool,
}

impl Family {
    const fn of<E: Endpoint>(name: &'static str) -> Self {
        Self { name, path: E::PATH, needed: E::ACCOUNT, cloud: E::CLOUD }
    }

    /// Returns true if an account can use it.
    fn fits(&self, account: &Account) -> bool {
        let is_of_kind = match self.needed {
            AccountKinds::Any => true,
            AccountKinds::MiniProgram => account.kind == AccountKind::MiniProgram,
            AccountKinds::Official => account.kind == AccountKind::Official,
            AccountKinds::Platform => false,
        };
        is_of_kind && (self.cloud || !account.token.is_of_cloud())
    }
}

/// Returns the families that an account can use.
pub(super) fn families(account: &Account) -> impl Iterator<Item = &'static str> {
    FAMILIES.into_iter().filter(|family| family.fits(account)).map(|family| family.name)
}

/// Returns the paths of their reads.
pub(super) fn paths(account: &Account) -> impl Iterator<Item = &'static str> {
    FAMILIES.into_iter().filter(|family| family.fits(account)).map(|family| family.path)
}

/// Returns a check per family, with WeChat's refusal if there was one.
pub(super) async fn check(
    client: &Client,
    token: Option<&AccessToken>,
    account: &Account,
) -> Vec<(Check, Option<Trouble>)> {
    let mut checks = Vec::new();
    for family in families(account) {
        let trouble = match family {
            "merchant" => refusal(client, token, &GetMerchantCategory {}).await,
            "store" => refusal(client, token, &GetStoreList { offset: 0, limit: 1 }).await,
            "card" => {
                refusal(client, token, &GetCard { poi_id: PoiId::from(NO_STORE.to_owned()) }).await
            }
            _ => refusal(client, token, &GetNearbyPoiList { page: 1, page_rows: 1 }).await,
        };
        checks.push((judged(trouble.as_ref()).of(family), trouble));
    }
    checks
}

async fn refusal<E: Endpoint>(
    client: &Client,
    token: Option<&AccessToken>,
    call: &E,
) -> Option<Trouble> {
    read(client, token, call).await.err()
}

/// Returns the check of a family from WeChat's refusal.
fn judged(trouble: Option<&Trouble>) -> Check {
    let Some(trouble) = trouble else { return Check::ok(CHECK, "WeChat answered") };
    match (trouble.reason().as_str(), trouble.status.code()) {
        ("API_NOT_PERMITTED", _) => {
            Check::failed(CHECK, trouble.text(), format!("at WeChat, {}", sets(trouble)))
        }
        ("IP_NOT_ALLOWED" | "TOKEN_REFUSED" | "DAILY_QUOTA_SPENT" | "MINUTE_QUOTA_SPENT", _) => {
            Check::skipped(CHECK, format!("not shown: {}", trouble.text()))
        }
        // A store that does not exist, or an account without a merchant, is no missing permission.
        (_, Code::InvalidArgument | Code::NotFound) => {
            Check::ok(CHECK, format!("permitted; WeChat answered: {}", trouble.text()))
        }
        _ => Check::warning(
            CHECK,
            trouble.text(),
            "run doctor again; if this stays, docs/errors.md explains the reason",
        ),
    }
}

/// Returns the missing permission sets, as the error of a call names them.
fn sets(trouble: &Trouble) -> String {
    let failure = trouble.status.get_details_precondition_failure();
    let violation = failure.and_then(|failure| failure.violations.into_iter().next());
    match violation.filter(|violation| violation.r#type == "PERMISSION_SET") {
        Some(violation) => violation.description,
        None => "the account must be granted this API".to_owned(),
    }
}
