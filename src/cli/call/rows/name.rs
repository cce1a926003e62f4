//! What a row is called: always the same, so that whoever runs a file again repeats its requests and
//! does not make new ones.

use prost::Message;
use prost_reflect::DynamicMessage;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Begins what is hashed. Another number gives all rows other names.
const PURPOSE: &[u8] = b"wechat-store-gateway call --rows 1";

/// The name of a request: of its method, its fields, `app_id` among them, and the batch it belongs
/// to. The order of fields, blanks and the spelling of names in the JSON do not matter.
pub(super) fn of(method: &str, batch: &str, request: &DynamicMessage) -> Uuid {
    let mut hash = Sha256::new();
    // Fields are encoded in the order of their numbers.
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
    use crate::{cli::call::read, pb};

    fn name(method: &str, batch: &str, json: &str) -> Uuid {
        let types = prost_reflect::DescriptorPool::decode(pb::DESCRIPTORS).expect("types");
        let kind = types.get_message_by_name("wechat.store.v1.AddStoreRequest").expect("a message");
        of(method, batch, &read(kind, json).expect(json))
    }

    #[test]
    fn the_same_request_has_the_same_name_however_it_is_written() {
        let one = name("S/AddStore", "", r#"{"map_poi_id": "1", "hours": {"open": "10:00"}}"#);
        let same = [
            r#"{"hours":{"open":"10:00"},"mapPoiId":"1"}"#,
            r#"{"hours":{"open":"10:00","close":""},"map_poi_id":"1","card_id":""}"#,
        ];
        for json in same {
            assert_eq!(name("S/AddStore", "", json), one, "{json}");
        }
        // Whoever changes this lets every import that was interrupted begin anew.
        assert_eq!(one.to_string(), "ca46e89a-27b8-8888-b2a7-606cb878e5f2");
    }

    #[test]
    fn another_request_method_or_batch_is_another_name() {
        let json = r#"{"map_poi_id": "1"}"#;
        let one = name("S/AddStore", "", json);
        assert_ne!(name("S/AddStore", "", r#"{"map_poi_id": "2"}"#), one);
        assert_ne!(name("S/AddStore", "", r#"{"map_poi_id": "1", "app_id": "wx1"}"#), one);
        assert_ne!(name("S/Add", "Store", json), name("S/AddStore", "", json));
        assert_ne!(name("S/AddStore", "spring", json), one);
    }
}
