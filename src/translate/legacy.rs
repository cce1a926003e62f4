//! Stores of the older 门店管理, and their migration (升级流程).

use super::{
    Form, WriteCall,
    store::{WantedRows, pictures},
};
use crate::{
    journal::ExpectedEffect,
    pb::{self, LegacyStoreState, OpeningHours, UpgradeState, UpgradeStep},
    util::id::PoiId,
    validate::{Check, Invalid},
    wechat::{
        Decimal, Done, Int,
        store::{DelPoi, GetPoi, GetPoiReply, PoiInfo},
    },
};

/// How many blockers a response lists. The counts include all.
const MOST_BLOCKERS: usize = 500;

impl TryFrom<pb::ListLegacyStoresRequest> for WantedRows {
    type Error = Invalid;

    fn try_from(
        pb::ListLegacyStoresRequest { app_id: _, page_size, page_token }: pb::ListLegacyStoresRequest,
    ) -> Result<Self, Invalid> {
        Self::new(page_size, page_token)
    }
}

impl From<PoiInfo> for pb::LegacyStore {
    fn from(
        PoiInfo {
            poi_id,
            sid,
            business_name,
            branch_name,
            province,
            city,
            district,
            address,
            longitude,
            latitude,
            offset_type,
            telephone,
            open_time,
            categories,
            photo_list,
            introduction,
            recommend,
            special,
            avg_price,
            available_state,
            update_status,
            upgrade_status,
            upgrade_comment,
            mapid,
            mut unreadable,
        }: PoiInfo,
    ) -> Self {
        Self {
            legacy_poi_id: poi_id.into(),
            shop_number: sid.0,
            name: business_name.0,
            branch_name: branch_name.0,
            province: province.0,
            city: city.0,
            district: district.0,
            address: address.0,
            location: pb::LatLng::from_wechat(latitude, longitude, &mut unreadable),
            offset_type: offset_type.0,
            contact_phone: telephone.0,
            hours: OpeningHours::parse(open_time.0),
            categories: categories.0.into_iter().map(|category| category.0).collect(),
            picture_urls: pictures(photo_list),
            introduction: introduction.0,
            recommendation: recommend.0,
            special_services: special.0,
            average_price: price(avg_price, &mut unreadable),
            state: state(available_state).into(),
            wechat_status: available_state.0,
            update_in_review: update_status.0 == Some(1),
            upgrade_state: upgrade_state(upgrade_status).into(),
            wechat_upgrade_status: upgrade_status.0,
            upgrade_comment: upgrade_comment.0,
            map_poi_id: mapid.into(),
            unreadable_fields: unreadable,
        }
    }
}

/// The `avg_price` of getpoilist, in whole yuan.
fn price(Decimal(price): Decimal, unreadable: &mut Vec<String>) -> Option<i32> {
    let yuan = price?.round();
    if !(0.0..=f64::from(i32::MAX)).contains(&yuan) {
        unreadable.push("avg_price".to_owned());
        return None;
    }
    Some(yuan as i32)
}

/// The `available_state` of getpoilist (1 系统错误, 2 审核中, 3 审核通过, 4 审核驳回).
fn state(available_state: Int) -> LegacyStoreState {
    match available_state.0 {
        Some(1) => LegacyStoreState::SystemError,
        Some(2) => LegacyStoreState::InReview,
        Some(3) => LegacyStoreState::Approved,
        Some(4) => LegacyStoreState::Rejected,
        _ => LegacyStoreState::Unspecified,
    }
}

/// The `upgrade_status` of getpoilist (S3 §13: 0 待迁移, 1 失败, 2 迁移中, 3 成功, 4 禁止迁移). A
/// missing one has none of these meanings.
fn upgrade_state(upgrade_status: Int) -> UpgradeState {
    match upgrade_status.0 {
        Some(0) => UpgradeState::Pending,
        Some(1) => UpgradeState::Failed,
        Some(2) => UpgradeState::Migrating,
        Some(3) => UpgradeState::Migrated,
        Some(4) => UpgradeState::Forbidden,
        _ => UpgradeState::Unspecified,
    }
}

impl TryFrom<pb::GetLegacyStoreRequest> for GetPoi {
    type Error = Invalid;

    fn try_from(
        pb::GetLegacyStoreRequest { app_id: _, legacy_poi_id }: pb::GetLegacyStoreRequest,
    ) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let poi_id = check.formed("legacy_poi_id", legacy_poi_id, &Form::POI_ID).into();
        check.done(Self { poi_id })
    }
}

/// Adds the id of the request, because WeChat's sample does not repeat it. With an empty id, a later
/// `AddStore` would add a new store.
impl From<(PoiId, GetPoiReply)> for pb::GetLegacyStoreResponse {
    fn from((asked, GetPoiReply { business }): (PoiId, GetPoiReply)) -> Self {
        let mut store = business.base_info;
        if store.poi_id.is_empty() {
            store.poi_id = asked;
        }
        Self { store: Some(store.into()) }
    }
}

impl TryFrom<pb::DeleteLegacyStoreRequest> for DelPoi {
    type Error = Invalid;

    fn try_from(
        pb::DeleteLegacyStoreRequest { app_id: _, request_id: _, legacy_poi_id }: pb::DeleteLegacyStoreRequest,
    ) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let poi_id = check.formed("legacy_poi_id", legacy_poi_id, &Form::POI_ID).into();
        check.done(Self { poi_id })
    }
}

impl WriteCall for DelPoi {
    fn expected_effect(&self) -> Option<ExpectedEffect> {
        Some(ExpectedEffect::LegacyStoreDeleted(self.poi_id.to_string()))
    }
}

impl From<Done> for pb::DeleteLegacyStoreResponse {
    fn from(Done {}: Done) -> Self {
        Self { recovered: false }
    }
}

/// The progress of the migration, as far as the list of old stores was read.
#[derive(Debug, Default)]
pub(crate) struct Progress(pb::GetUpgradeProgressResponse);

impl Progress {
    /// Counts a store. A store without an id counts as unread, because it may be listed twice.
    pub(crate) fn count(&mut self, store: PoiInfo) {
        if store.poi_id.is_empty() {
            return;
        }
        let Self(response) = self;
        let (count, blocks) = match upgrade_state(store.upgrade_status) {
            UpgradeState::Pending => (&mut response.pending_count, None),
            UpgradeState::Migrating => (&mut response.migrating_count, None),
            UpgradeState::Migrated => (&mut response.migrated_count, None),
            UpgradeState::Failed => {
                (&mut response.failed_count, Some(UpgradeStep::CorrectAndMigrate))
            }
            UpgradeState::Forbidden => (&mut response.forbidden_count, Some(UpgradeStep::Delete)),
            UpgradeState::Unspecified => {
                (&mut response.unknown_count, Some(UpgradeStep::Unspecified))
            }
        };
        *count += 1;
        response.total_count += 1;
        if let Some(step) = blocks
            && response.blockers.len() < MOST_BLOCKERS
        {
            response.blockers.push(blocker(store, step));
        }
    }

    /// Returns the response if at least `unread` stores could not be counted.
    pub(crate) fn finish(self, unread: u32) -> pb::GetUpgradeProgressResponse {
        let Self(mut response) = self;
        response.unread_count = i32::try_from(unread).unwrap_or(i32::MAX);
        response.total_count = response.total_count.saturating_add(response.unread_count);
        response.complete = response.migrated_count == response.total_count;
        response.set_next_step(first_step(&response));
        response
    }
}

fn first_step(progress: &pb::GetUpgradeProgressResponse) -> UpgradeStep {
    let steps = [
        (progress.pending_count, UpgradeStep::Migrate),
        (progress.failed_count, UpgradeStep::CorrectAndMigrate),
        (progress.forbidden_count, UpgradeStep::Delete),
        (progress.migrating_count, UpgradeStep::Wait),
        // Some stores are left, and the next step for them is unknown.
        (progress.unknown_count, UpgradeStep::Unspecified),
        (progress.unread_count, UpgradeStep::Unspecified),
    ];
    let needed = steps.into_iter().find(|(count, _)| *count > 0);
    needed.map_or(UpgradeStep::None, |(_, step)| step)
}

fn blocker(store: PoiInfo, next_step: UpgradeStep) -> pb::UpgradeBlocker {
    let PoiInfo { business_name, branch_name, upgrade_status, .. } = store;
    let name = match branch_name.0.as_str() {
        "" => business_name.0,
        branch => format!("{}({branch})", business_name.0),
    };
    pb::UpgradeBlocker {
        legacy_poi_id: store.poi_id.into(),
        name,
        upgrade_state: upgrade_state(upgrade_status).into(),
        wechat_upgrade_status: upgrade_status.0,
        reason: store.upgrade_comment.0,
        map_poi_id: store.mapid.into(),
        next_step: next_step.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wechat::{Text, store::GetPoiListReply};

    fn progress(statuses: &[i32], unread: u32) -> pb::GetUpgradeProgressResponse {
        let mut progress = Progress::default();
        for &status in statuses {
            let poi_id = "271262077".to_owned().into();
            let upgrade_status = Int(Some(status));
            progress.count(PoiInfo { poi_id, upgrade_status, ..PoiInfo::default() });
        }
        progress.finish(unread)
    }

    #[test]
    fn old_store_states_match_the_document() {
        use LegacyStoreState as S;
        let states = [None, Some(0), Some(1), Some(2), Some(3), Some(4)].map(|n| state(Int(n)));
        assert_eq!(
            states,
            [S::Unspecified, S::Unspecified, S::SystemError, S::InReview, S::Approved, S::Rejected]
        );
    }

    #[test]
    fn migration_states_match_the_document() {
        use UpgradeState as S;
        let numbers = [None, Some(0), Some(1), Some(2), Some(3), Some(4), Some(5)];
        assert_eq!(
            numbers.map(|n| upgrade_state(Int(n))),
            [
                S::Unspecified,
                S::Pending,
                S::Failed,
                S::Migrating,
                S::Migrated,
                S::Forbidden,
                S::Unspecified
            ]
        );
    }

    #[test]
    fn next_step_is_the_first_needed_one() {
        use UpgradeStep as S;
        for (statuses, step) in [
            (&[4, 2, 1, 0][..], S::Migrate),
            (&[4, 2, 1], S::CorrectAndMigrate),
            (&[2, 4], S::Delete),
            (&[3, 2], S::Wait),
            (&[3, 9], S::Unspecified),
            (&[3, 3], S::None),
            (&[], S::None),
        ] {
            let response = progress(statuses, 0);
            assert_eq!(response.next_step(), step, "{statuses:?}");
            assert_eq!(response.complete, step == S::None, "{statuses:?}");
            assert_eq!(response.total_count as usize, statuses.len());
            // Some stores could not be read.
            let response = progress(statuses, 2);
            let step = if step == S::None { S::Unspecified } else { step };
            assert_eq!((response.complete, response.next_step()), (false, step), "{statuses:?}");
            assert_eq!(response.total_count as usize, statuses.len() + 2);
        }
    }

    #[test]
    fn list_of_blockers_is_limited() {
        let store = PoiInfo {
            business_name: Text("超速天使俱乐部".to_owned()),
            branch_name: Text("新华路店".to_owned()),
            upgrade_status: Int(Some(1)),
            upgrade_comment: Text("图片不清晰".to_owned()),
            ..PoiInfo::default()
        };
        let blocker = blocker(store, UpgradeStep::CorrectAndMigrate);
        assert_eq!(blocker.name, "超速天使俱乐部(新华路店)");
        assert_eq!(blocker.reason, "图片不清晰");

        let progress = progress(&[4; 501], 0);
        assert_eq!((progress.blockers.len(), progress.forbidden_count), (500, 501));
    }

    #[test]
    fn old_store_is_parsed_from_two_samples() {
        for json in [
            r#"{"errcode":0,"business_list":[{"base_info":{"sid":"101","business_name":"麦当劳",
               "categories":["美食,小吃快餐"],"offset_type":1,"longitude":113.3,"latitude":23.1,
               "avg_price":35,"poi_id":"271262077","available_state":3,"upgrade_status":0,
               "mapid":"2880741500279549033"}}],"total_count":"1"}"#,
            r#"{"errcode":0,"business_list":[{"base_info":{"sid":101,"business_name":"麦当劳",
               "categories":["美食,小吃快餐"],"offset_type":"1","longitude":"113.3","latitude":23.1,
               "avg_price":34.6,"poi_id":271262077,"available_state":"3","upgrade_status":"0",
               "mapid":2880741500279549033,"type":0,"qualification_list":[]}}],"total_count":1}"#,
        ] {
            let reply: GetPoiListReply = serde_json::from_str(json).expect(json);
            assert_eq!(reply.total_count, Int(Some(1)));
            let [row] = reply.business_list.0.try_into().expect("one");
            let store = pb::LegacyStore::from(row.base_info);
            assert_eq!(
                (store.legacy_poi_id.as_str(), store.shop_number.as_str()),
                ("271262077", "101")
            );
            assert_eq!(store.map_poi_id, "2880741500279549033");
            assert_eq!(
                (store.state(), store.average_price),
                (LegacyStoreState::Approved, Some(35))
            );
            assert_eq!(store.upgrade_state(), UpgradeState::Pending);
        }
    }
}
