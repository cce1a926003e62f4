//! Writing JSON inside strings, as some of WeChat's requests want it.

// Not serde_with: its JsonString would save eight lines and add a procedural macro to every build.

use serde::{Serialize, Serializer, ser};

/// A value that WeChat wants as JSON inside a string. [`Nested`](super::Nested) reads what this
/// writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quoted<T>(pub T);

impl<T: Serialize> Serialize for Quoted<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // serde_json leaves Chinese as it is, here as outside: WeChat refuses \uXXXX (40033).
        let json = serde_json::to_string(&self.0).map_err(ser::Error::custom)?;
        serializer.serialize_str(&json)
    }
}

/// The pictures of a store or a nearby place (`pic_list`): `{"list":["http://mmbiz.qpic.cn/…"]}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PicList {
    /// URLs that uploadimg gave.
    pub list: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_inside_a_string_is_written_as_the_documents_show_it() {
        let list = vec!["http://mmbiz.qpic.cn/门店/0".to_owned(), "http://b".to_owned()];
        assert_eq!(
            serde_json::to_string(&Quoted(PicList { list })).expect("JSON"),
            r#""{\"list\":[\"http://mmbiz.qpic.cn/门店/0\",\"http://b\"]}""#
        );
    }
}
