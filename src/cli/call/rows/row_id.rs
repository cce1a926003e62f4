//! The id of a row. It depends only on the content, so that a file that is sent again repeats its
//! requests and does not create new ones.

use prost::Message;
use prost_reflect::DynamicMessage;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The start of the hashed bytes. Another number gives all rows other ids.
const PURPOSE: &[u8] = b"wechat-store-gateway call --rows 1";

/// Returns the id of a request, computed from its method, its fields (`app_id` included) and its batch.
///
/// The order of the fields, spaces and the spelling of names in the JSON do not matter.
pub(super) fn row_id(method: &str, batch: &str, request: &DynamicMessage) -> Uuid {
    let mut hash = Sha256::new();
    // Fields are encoded in the order of their field numbers.
    for part in [PURPOSE, method.as_bytes(), batch.as_bytes(), &request.encode_to_vec()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut name = [0; 16];
    name.copy_from_slice(&hash.finalize()[..16]);
    Uuid::new_v8(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::call::parse_request, pb};

    fn id(method: &str, batch: &str, json: &str) -> Uuid {
        let types = prost_reflect::DescriptorPool::decode(pb::DESCRIPTORS).expect("types");
        let kind = types.get_message_by_name("wechat.store.v1.AddStoreRequest").expect("a message");
        row_id(method, batch, &parse_request(kind, json).expect(json))
    }

    #[test]
    fn same_request_has_same_id_in_any_spelling() {
        let one = id("S/AddStore", "", r#"{"map_poi_id": "1", "hours": {"open": "10:00"}}"#);
        let same = [
            r#"{"hours":{"open":"10:00"},"mapPoiId":"1"}"#,
            r#"{"hours":{"open":"10:00","close":""},"map_poi_id":"1","card_id":""}"#,
        ];
        for json in same {
            assert_eq!(id("S/AddStore", "", json), one, "{json}");
        }
        // A change of this value would restart every interrupted import.
        assert_eq!(one.to_string(), "ca46e89a-27b8-8888-b2a7-606cb878e5f2");
    }

    #[test]
    fn other_request_method_or_batch_has_other_id() {
        let json = r#"{"map_poi_id": "1"}"#;
        let one = id("S/AddStore", "", json);
        assert_ne!(id("S/AddStore", "", r#"{"map_poi_id": "2"}"#), one);
        assert_ne!(id("S/AddStore", "", r#"{"map_poi_id": "1", "app_id": "wx1"}"#), one);
        assert_ne!(id("S/Add", "Store", json), id("S/AddStore", "", json));
        assert_ne!(id("S/AddStore", "spring", json), one);
    }
}
