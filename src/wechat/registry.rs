//! All endpoints as data, so that a test over all of them cannot miss one.
//!
//! To add an endpoint: implement [`Endpoint`] in the family's file, name the type in the list at the
//! end of this file, and add WeChat's own example below `tests/documented`. Without the name here the
//! implementation does not compile. Without the example `tests/it/endpoints.rs` fails.
//!
//! A further fact of every endpoint is a field of [`Facts`], filled in by [`Facts::of`].

use http::Method;

use super::{
    AccountKinds, Endpoint, Need, Safety, Verdict, card, map_poi, media, merchant, nearby, store,
    token,
};

/// Marks the calls that [`ENDPOINTS`] names. Only the list in `src/wechat/registry.rs` implements it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not listed in `src/wechat/registry.rs`",
    note = "name it in `endpoints!`, so that the tests of all endpoints find it"
)]
pub trait Listed {}

/// What is true of one endpoint, without its types.
#[derive(Debug)]
pub struct Facts {
    /// [`Endpoint::METHOD`].
    pub method: Method,
    /// [`Endpoint::PATH`].
    pub path: &'static str,
    /// [`Endpoint::ACCOUNT`].
    pub account: AccountKinds,
    /// [`Endpoint::SAFETY`].
    pub safety: Safety,
    /// [`Endpoint::VERDICT`].
    pub verdict: Verdict,
    /// [`Endpoint::WHOLE`].
    pub whole: &'static [Need],
    /// [`Endpoint::SALVAGED`].
    pub salvaged: bool,
}

impl Facts {
    /// Returns the facts of one endpoint.
    const fn of<E: Endpoint>() -> Self {
        Self {
            method: E::METHOD,
            path: E::PATH,
            account: E::ACCOUNT,
            safety: E::SAFETY,
            verdict: E::VERDICT,
            whole: E::WHOLE,
            salvaged: E::SALVAGED,
        }
    }
}

macro_rules! endpoints {
    ($($call:ty),+ $(,)?) => {
        $(impl Listed for $call {})+

        /// Every endpoint that this service calls.
        pub static ENDPOINTS: &[Facts] = &[$(Facts::of::<$call>()),+];
    };
}

endpoints! {
    card::GetCard,
    card::SetCard,
    map_poi::CreateMapPoi,
    map_poi::GetDistrict,
    map_poi::SearchMapPoi,
    media::UploadImg,
    media::UploadTemporary,
    merchant::ApplyMerchant,
    merchant::GetMerchantAuditInfo,
    merchant::GetMerchantCategory,
    merchant::ModifyMerchant,
    nearby::AddNearbyPoi,
    nearby::DelNearbyPoi,
    nearby::GetNearbyPoiList,
    nearby::SetNearbyPoiShowStatus,
    store::AddStore,
    store::DelPoi,
    store::DelStore,
    store::GetPoi,
    store::GetPoiList,
    store::GetStoreInfo,
    store::GetStoreList,
    store::UpdateStore,
    token::ClassicToken,
    token::StableToken,
}
