//! Requests, and how the simulator's journal shows that one was executed: each write has a unique
//! value.

use std::time::Duration;

use prost::Message;
use tonic::Status;
use wechat_store_gateway::pb::{
    self, Addressed, card_service_client::CardServiceClient,
    map_poi_service_client::MapPoiServiceClient, media_service_client::MediaServiceClient,
    merchant_service_client::MerchantServiceClient, nearby_service_client::NearbyServiceClient,
    store_service_client::StoreServiceClient, write_service_client::WriteServiceClient,
};

use crate::door::Door;

macro_rules! requests {
    ($($name:ident($message:ident), $client:ident::$method:ident;)*) => {
        /// A request of any method.
        #[derive(Clone, Debug)]
        pub(crate) enum Request {
            $($name(pb::$message),)*
        }

        $(impl From<pb::$message> for Request {
            fn from(message: pb::$message) -> Self {
                Self::$name(message)
            }
        })*

        impl Request {
            /// Returns the method as in `Write.method`.
            pub(crate) fn method(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => <pb::$message as Addressed>::METHOD,)*
                }
            }

            /// Sends it and returns the bytes of the answer.
            pub(crate) async fn send(
                self,
                door: Door,
                time_left: Duration,
            ) -> Result<Vec<u8>, Status> {
                match self {
                    $(Self::$name(message) => {
                        let mut request = tonic::Request::new(message);
                        request.set_timeout(time_left);
                        let origin = door.origin();
                        let mut client = $client::with_origin(door, origin);
                        let answer = client.$method(request).await?;
                        Ok(answer.into_inner().encode_to_vec())
                    })*
                }
            }
        }
    };
}

requests! {
    AddNearbyPoi(AddNearbyPoiRequest), NearbyServiceClient::add_nearby_poi;
    AddStore(AddStoreRequest), StoreServiceClient::add_store;
    CreateMapPoi(CreateMapPoiRequest), MapPoiServiceClient::create_map_poi;
    DeleteNearbyPoi(DeleteNearbyPoiRequest), NearbyServiceClient::delete_nearby_poi;
    DeleteStore(DeleteStoreRequest), StoreServiceClient::delete_store;
    GetMerchantAudit(GetMerchantAuditRequest), MerchantServiceClient::get_merchant_audit;
    GetStore(GetStoreRequest), StoreServiceClient::get_store;
    GetStoreCard(GetStoreCardRequest), CardServiceClient::get_store_card;
    GetWrite(GetWriteRequest), WriteServiceClient::get_write;
    ListCategories(ListCategoriesRequest), MerchantServiceClient::list_categories;
    ListNearbyPois(ListNearbyPoisRequest), NearbyServiceClient::list_nearby_pois;
    ListStores(ListStoresRequest), StoreServiceClient::list_stores;
    ListWrites(ListWritesRequest), WriteServiceClient::list_writes;
    ReplaceNearbyPoi(ReplaceNearbyPoiRequest), NearbyServiceClient::replace_nearby_poi;
    SearchMapPois(SearchMapPoisRequest), MapPoiServiceClient::search_map_pois;
    SetNearbyPoiVisibility(SetNearbyPoiVisibilityRequest),
        NearbyServiceClient::set_nearby_poi_visibility;
    SetStoreCard(SetStoreCardRequest), CardServiceClient::set_store_card;
    UpdateMerchant(UpdateMerchantRequest), MerchantServiceClient::update_merchant;
    UpdateStore(UpdateStoreRequest), StoreServiceClient::update_store;
    UploadImage(UploadImageRequest), MediaServiceClient::upload_image;
    UploadTemporaryImage(UploadTemporaryImageRequest), MediaServiceClient::upload_temporary_image;
}

/// The place of an execution in the simulator's journal: the path and the unique value.
pub(crate) type Mark = (&'static str, String);

impl Request {
    /// Returns the proof of an execution. `None` for reads, and for writes that leave no proof.
    pub(crate) fn mark(&self) -> Option<Mark> {
        Some(match self {
            Self::AddNearbyPoi(add) => {
                ("/wxa/addnearbypoi", add.profile.as_ref()?.license_number.clone())
            }
            Self::AddStore(add) => ("/wxa/add_store", add.license_number.clone()),
            Self::CreateMapPoi(create) => ("/wxa/create_map_poi", create.name.clone()),
            Self::DeleteNearbyPoi(delete) => ("/wxa/delnearbypoi", delete.nearby_poi_id.clone()),
            Self::DeleteStore(delete) => ("/wxa/del_store", delete.poi_id.clone()),
            Self::ReplaceNearbyPoi(replace) => {
                ("/wxa/addnearbypoi", replace.profile.as_ref()?.address.clone())
            }
            Self::SetNearbyPoiVisibility(set) => {
                let shown = u8::from(set.visible());
                ("/wxa/setnearbypoishowstatus", format!("{} {shown}", set.nearby_poi_id))
            }
            Self::SetStoreCard(set) => ("/card/storewxa/set", set.card_id.clone()),
            Self::UpdateMerchant(update) => {
                ("/wxa/modify_merchant", update.introduction().to_owned())
            }
            Self::UpdateStore(update) => {
                let hours = update.hours.as_ref();
                let hours = hours.map(|hours| format!("{}-{}", hours.open, hours.close));
                let new = update.contact_phone.clone().or(hours)?;
                ("/wxa/update_store", format!("{} {new}", update.poi_id))
            }
            Self::UploadImage(upload) => {
                ("/cgi-bin/media/uploadimg", upload.content.len().to_string())
            }
            _ => return None,
        })
    }

    /// Returns true if a second execution would have a further effect. An update with a lost reply
    /// is sent again if another update came in between, because the store does not show its values
    /// any more. A replaced place is sent again if its review has ended and no event arrived.
    pub(crate) fn is_once(&self) -> bool {
        !matches!(
            self,
            Self::SetNearbyPoiVisibility(_)
                | Self::ReplaceNearbyPoi(_)
                | Self::SetStoreCard(_)
                | Self::UpdateMerchant(_)
                | Self::UpdateStore(_)
                | Self::UploadImage(_)
        )
    }

    /// Returns true if no other request has the same mark. There are only two kinds of visibility.
    pub(crate) fn is_unique(&self) -> bool {
        !matches!(self, Self::SetNearbyPoiVisibility(_))
    }

    /// Returns true if WeChat has no reason to refuse it, whatever other callers do.
    pub(crate) fn is_welcome(&self) -> bool {
        matches!(
            self,
            Self::AddNearbyPoi(_)
                | Self::AddStore(_)
                | Self::CreateMapPoi(_)
                | Self::DeleteNearbyPoi(_)
                | Self::DeleteStore(_)
                | Self::UpdateStore(_)
        )
    }

    /// Returns another request for the same request id. It must never be executed, and its mark
    /// would show that.
    pub(crate) fn other(&self) -> Option<Self> {
        let mut other = self.clone();
        match &mut other {
            Self::AddStore(add) => add.license_number.push_str("-other"),
            Self::CreateMapPoi(create) => create.name.push_str("-other"),
            Self::SetStoreCard(set) => set.card_id.push_str("-other"),
            Self::UpdateStore(update) => {
                let phone = update.contact_phone.as_deref().unwrap_or("020");
                update.contact_phone = Some(format!("{phone}-9"));
            }
            _ => return None,
        }
        Some(other)
    }
}
