//! Ids and secrets.
//!
//! WeChat sends the same id sometimes as text and sometimes as a number, and map ids have 19
//! digits, which a float cannot hold. Here an id is always text.

use std::{borrow::Borrow, fmt};

use serde::{Deserialize, Deserializer, Serialize, de};

/// Defines an id: opaque text that is deserialized from a JSON string, an integer or null.
/// Surrounding blanks are removed, because pushes have them. 0 means that there is no id.
macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident,)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Returns the id in WeChat's form.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns true if WeChat sent no id.
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
    /// A province, city or district of Tencent Maps, six digits.
    DistrictId,
    /// A place of Tencent Maps, 19 digits.
    MapPoiId,
    /// A temporary picture (临时素材), valid for three days.
    MediaId,
    /// A store or a nearby place of WeChat.
    PoiId,
}

/// Deserializes an id. It refuses a float, because rounding would change the id.
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

// Not secrecy: it has no equality, which shared tokens need, and wiping one copy leaves those in sent
// requests.
/// A secret. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the secret. Only for the request that carries it.
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
    fn id_as_number_equals_id_as_text() {
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
    fn float_is_not_an_id() {
        assert!(serde_json::from_str::<PoiId>("5938314494307741153.0").is_err());
        assert!(serde_json::from_str::<PoiId>("59383144943077411530000").is_err());
    }

    #[test]
    fn secret_is_hidden_in_debug() {
        assert_eq!(format!("{:?}", Secret::from("hush".to_owned())), "[redacted]");
    }
}
