//! Types for the values that WeChat really sends.
//!
//! A field may be a number in one reply and text in the next, and `null`, empty or missing
//! elsewhere. These types accept every such form of one value and refuse every other form. A
//! refused reply is parsed again by `salvage.rs`, which removes the field and notes its name. A
//! list that a reply must have is a [`Rows`]. For it, null and empty text are not a list.

// Not serde_with: PickFirst buffers a value and loses the path of an error inside, which salvage.rs
// needs. Its adapters also accept forms that must be refused, such as NaN.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned},
};

use super::objects::Objects;

/// Text, also from a whole number. Missing and null are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(pub String);

/// A whole number of 32 bits, also from text. Missing, null and empty text are `None`. All of
/// WeChat's own numbers are far smaller, so a larger one is unreadable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Int(pub Option<i32>);

/// A time in seconds, since 1970 or from now, also from text. Missing, null and empty text are
/// `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seconds(pub Option<i64>);

/// A decimal number, also from text. Missing, null and empty text are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Decimal(pub Option<f64>);

/// A list that may be missing. Null and empty text are the empty list, and an element that is null
/// is the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

/// A list that a reply must have. Null and empty text are not accepted in place of an empty list. An
/// unreadable row is the default, which has no id, so that the other rows keep their positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<T>(pub Vec<T>);

/// An object that WeChat sends as JSON inside a string, also from the object itself. Null and empty
/// text are the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nested<T>(pub T);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Default for Rows<T> {
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
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Text, E> {
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
        let Number(number) = Number::deserialize(deserializer)?;
        number.map(i32::try_from).transpose().map(Self).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Number::deserialize(deserializer).map(|Number(seconds)| Self(seconds))
    }
}

/// The number that [`Int`] and [`Seconds`] are parsed from. A flag may be a boolean, and a float
/// may be whole.
struct Number(Option<i64>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }
            fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Number, E> {
                Ok(Number(Some(flag.into())))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Number, E> {
                Ok(Number(Some(number)))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Number, E> {
                i64::try_from(number).map(|number| Number(Some(number))).map_err(E::custom)
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Number, E> {
                match number.fract() == 0.0 && number.abs() < f64::from(i32::MAX) {
                    true => Ok(Number(Some(number as i64))),
                    false => Err(E::invalid_value(de::Unexpected::Float(number), &self)),
                }
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                match text.trim() {
                    "" => Ok(Number(None)),
                    "true" => Ok(Number(Some(1))),
                    "false" => Ok(Number(Some(0))),
                    text => text.parse().map(|number| Number(Some(number))).map_err(E::custom),
                }
            }
            fn visit_unit<E: de::Error>(self) -> Result<Number, E> {
                Ok(Number(None))
            }
        }
        deserializer.deserialize_any(Visitor)
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
                        // Rust also parses "NaN" and "inf", which are not places on a map.
                        match number.is_finite() {
                            true => Ok(Decimal(Some(number))),
                            false => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                        }
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

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Default> de::Visitor<'de> for Visitor<T> {
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
                    items.push(item.unwrap_or_default());
                }
                Ok(List(items))
            }
        }
        deserializer.deserialize_any(Visitor(PhantomData))
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Rows<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Default> de::Visitor<'de> for Visitor<T> {
            type Value = Rows<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Rows<T>, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = seq.next_element::<Option<T>>()? {
                    rows.push(row.unwrap_or_default());
                }
                Ok(Rows(rows))
            }
        }
        deserializer.deserialize_seq(Visitor(PhantomData))
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
                let mut reader = serde_json::Deserializer::from_str(json);
                let value = Option::<T>::deserialize(Objects(&mut reader)).map_err(E::custom)?;
                reader.end().map_err(E::custom)?;
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

    fn parse(json: &str) -> Reply {
        serde_json::from_str(json).expect(json)
    }

    #[test]
    fn number_equals_its_text() {
        let numbers =
            r#"{"name":7,"total_count":3,"longitude":113.5,"photos":[1],"data":{"poi_list":[1]}}"#;
        let strings = r#"{"name":"7","total_count":"3","longitude":"113.5","photos":["1"],
            "data":"{\"poi_list\":[\"1\"]}","unknown":{"x":[]}}"#;
        assert_eq!(parse(numbers), parse(strings));
        for (json, number) in [("true", 1), ("false", 0), ("3.0", 3), ("\" 3 \"", 3)] {
            let json = format!(r#"{{"total_count":{json}}}"#);
            assert_eq!(parse(&json).total_count, Int(Some(number)), "{json}");
        }
    }

    #[test]
    fn missing_null_and_empty_are_equal() {
        let null = r#"{"name":null,"total_count":null,"longitude":null,"photos":null,"data":null}"#;
        let empty = r#"{"name":"","total_count":"","longitude":" ","photos":"","data":""}"#;
        assert_eq!(parse(null), Reply::default());
        assert_eq!(parse(empty), Reply::default());
        assert_eq!(parse(r#"{"data":"null"}"#), Reply::default());
        assert_eq!(parse(r#"{"photos":[null]}"#).photos, List(vec![Text::default()]));
    }

    #[test]
    fn number_out_of_range_is_refused() {
        for json in [
            r#"{"total_count":2147483648}"#,
            r#"{"total_count":"-2147483649"}"#,
            r#"{"total_count":1.5}"#,
            r#"{"longitude":"NaN"}"#,
            r#"{"longitude":"-inf"}"#,
            r#"{"longitude":"1e999"}"#,
            r#"{"name":59383144943077411530000}"#,
            r#"{"name":1.5}"#,
            r#"{"name":true}"#,
        ] {
            assert!(serde_json::from_str::<Reply>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn required_list_has_no_other_form() {
        let parse = serde_json::from_str::<Rows<Int>>;
        let numbers = [Int(Some(1)), Int(None), Int(Some(2))];
        assert_eq!(parse(r#"[1,null,"2"]"#).expect("rows").0, numbers);
        for json in ["null", r#""""#, "{}", "0", "false", r#"[{}]"#] {
            assert!(parse(json).is_err(), "{json}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for json in [r#"{"total_count":"many"}"#, r#"{"photos":{}}"#, r#"{"data":"{"}"#] {
            assert!(serde_json::from_str::<Reply>(json).is_err(), "{json}");
        }
    }
}
