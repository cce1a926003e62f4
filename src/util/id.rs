//! Ids and secrets.
//!
//! WeChat sends one and the same id now as text and now as a number, and map ids have 19 digits,
//! which no float can hold. Here an id is always text.

use std::{borrow::Borrow, fmt};

use serde::{Deserialize, Deserializer, Serialize, de};

/// Defines an id: opaque text, read from a JSON string, an integer or null. Blanks around it are left out,
/// as in pushes, and 0 is how WeChat writes that there is none.
macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident,)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The id as WeChat writes it.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// True where WeChat sent none.
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(id)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(IdVisitor).map(Self)
            }
        }
    )+};
}

ids! {
    /// An account: an official account (公众号) or a mini program (小程序). `wx` and 16 characters.
    AppId,
    /// A review (审核单).
    AuditId,
    /// A card (卡券).
    CardId,
    /// A province, city or district of Tencent Maps; six digits.
    DistrictId,
    /// A place of Tencent Maps; 19 digits.
    MapPoiId,
    /// A temporary picture (临时素材), valid for three days.
    MediaId,
    /// A store or a nearby place of WeChat.
    PoiId,
}

/// Reads an id; refuses a float rather than round it.
struct IdVisitor;

impl de::Visitor<'_> for IdVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id as text or integer")
    }

    fn visit_str<E: de::Error>(self, id: &str) -> Result<String, E> {
        Ok(match id.trim() {
            "0" => String::new(),
            id => id.to_owned(),
        })
    }

    fn visit_u64<E: de::Error>(self, id: u64) -> Result<String, E> {
        Ok(if id == 0 { String::new() } else { id.to_string() })
    }

    fn visit_i64<E: de::Error>(self, id: i64) -> Result<String, E> {
        Ok(id.to_string())
    }

    fn visit_unit<E: de::Error>(self) -> Result<String, E> {
        Ok(String::new())
    }
}

/// A secret that shows itself to nobody who does not ask for it by name.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself. Only for the request that carries it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_same_text_whether_wechat_sends_it_as_text_or_as_a_number() {
        for json in [r#""5938314494307741153""#, "5938314494307741153"] {
            let id: MapPoiId = serde_json::from_str(json).expect(json);
            assert_eq!(id.as_str(), "5938314494307741153");
        }
        for json in ["null", r#""""#, r#"" ""#, "0", r#""0""#] {
            assert!(serde_json::from_str::<PoiId>(json).expect(json).is_empty(), "{json}");
        }
        let id: PoiId = serde_json::from_str("\" 472671857\\n\"").expect("an id");
        assert_eq!(id.as_str(), "472671857");
    }

    #[test]
    fn an_id_never_passes_through_a_float() {
        assert!(serde_json::from_str::<PoiId>("5938314494307741153.0").is_err());
        assert!(serde_json::from_str::<PoiId>("59383144943077411530000").is_err());
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", Secret::from("hush".to_owned())), "[redacted]");
    }
}
