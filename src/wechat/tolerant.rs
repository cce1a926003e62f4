//! Reading what WeChat really sends.
//!
//! One field is a number here and text there, `null`, empty or missing elsewhere. These types take
//! all of it and stand for one value; a reply struct made of them with `#[serde(default)]` decodes
//! whatever the documents, and the bodies seen in the field, show.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned},
};

/// Text; also from a number or a boolean. Missing and null are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(pub String);

/// A whole number; also from text. Missing, null and empty text are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Int(pub Option<i64>);

/// A decimal number; also from text. Missing, null and empty text are none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Decimal(pub Option<f64>);

/// A list; also from null or empty text, which are the empty list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

/// An object that WeChat hides as JSON inside a string; also from the object itself. Null and empty
/// text are the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nested<T>(pub T);

impl Int {
    /// The number as the contract carries it: 0 where there is none, limited to 32 bits.
    pub fn or_zero(self) -> i32 {
        let number = self.0.unwrap_or_default();
        i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX })
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Text, E> {
                Ok(Text::default())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        match text.trim() {
            "" => Ok(Self(None)),
            "true" => Ok(Self(Some(1))),
            "false" => Ok(Self(Some(0))),
            text => text.parse().map(|number| Self(Some(number))).map_err(de::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Decimal;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a decimal number")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Decimal, E> {
                match text.trim() {
                    "" => Ok(Decimal(None)),
                    text => {
                        let number: f64 = text.parse().map_err(E::custom)?;
                        // Rust also reads "NaN" and "inf", which are no place on any map.
                        Ok(Decimal(Some(number).filter(|number| number.is_finite())))
                    }
                }
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Decimal, E> {
                Ok(Decimal(Some(number as f64)))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Decimal, E> {
                Ok(Decimal(Some(number as f64)))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Decimal, E> {
                Ok(Decimal(Some(number)))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Decimal, E> {
                Ok(Decimal(None))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_unit<E: de::Error>(self) -> Result<List<T>, E> {
                Ok(List::default())
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<List<T>, E> {
                match text {
                    "" => Ok(List::default()),
                    text => Err(E::invalid_type(de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<Option<T>>()? {
                    items.extend(item);
                }
                Ok(List(items))
            }
        }
        deserializer.deserialize_any(Visitor(PhantomData))
    }
}

impl<'de, T: DeserializeOwned + Default> Deserialize<'de> for Nested<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: DeserializeOwned + Default> de::Visitor<'de> for Visitor<T> {
            type Value = Nested<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON inside a string")
            }
            fn visit_unit<E: de::Error>(self) -> Result<Nested<T>, E> {
                Ok(Nested::default())
            }
            fn visit_str<E: de::Error>(self, json: &str) -> Result<Nested<T>, E> {
                if json.trim().is_empty() {
                    return Ok(Nested::default());
                }
                let value: Option<T> = serde_json::from_str(json).map_err(E::custom)?;
                Ok(Nested(value.unwrap_or_default()))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Nested<T>, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Nested)
            }
        }
        deserializer.deserialize_any(Visitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Reply {
        name: Text,
        total_count: Int,
        longitude: Decimal,
        photos: List<Text>,
        data: Nested<Inner>,
    }

    #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Inner {
        poi_list: List<Int>,
    }

    fn read(json: &str) -> Reply {
        serde_json::from_str(json).expect(json)
    }

    #[test]
    fn numbers_and_strings_say_the_same() {
        let numbers =
            r#"{"name":7,"total_count":3,"longitude":113.5,"photos":[1],"data":{"poi_list":[1]}}"#;
        let strings = r#"{"name":"7","total_count":"3","longitude":"113.5","photos":["1"],
            "data":"{\"poi_list\":[\"1\"]}","unknown":{"x":[]}}"#;
        assert_eq!(read(numbers), read(strings));
        let flags = read(r#"{"name":true,"total_count":true}"#);
        assert_eq!((flags.name.0.as_str(), flags.total_count), ("true", Int(Some(1))));
        assert_eq!(read(r#"{"total_count":false}"#).total_count, Int(Some(0)));
    }

    #[test]
    fn missing_null_and_empty_say_the_same() {
        let null = r#"{"name":null,"total_count":null,"longitude":null,"photos":null,"data":null}"#;
        let empty = r#"{"name":"","total_count":"","longitude":" ","photos":"","data":""}"#;
        assert_eq!(read(null), Reply::default());
        assert_eq!(read(empty), Reply::default());
        assert_eq!(read(r#"{"data":"null","photos":[null]}"#), Reply::default());
    }

    #[test]
    fn a_number_beyond_its_limits_is_not_taken_for_another_one() {
        let numbers = [i64::MIN, -1, 0, 4_294_967_297].map(|number| Int(Some(number)).or_zero());
        assert_eq!(numbers, [i32::MIN, -1, 0, i32::MAX]);
        for text in ["NaN", "-inf", "1e999"] {
            assert_eq!(read(&format!(r#"{{"longitude":"{text}"}}"#)).longitude, Decimal(None));
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for json in [r#"{"total_count":"many"}"#, r#"{"photos":{}}"#, r#"{"data":"{"}"#] {
            assert!(serde_json::from_str::<Reply>(json).is_err(), "{json}");
        }
    }
}
