//! Writes JSON inside strings, as some of WeChat's requests require.

// Not serde_with: its JsonString would save eight lines and add a procedural macro to every build.

use serde::{Serialize, Serializer, ser};

/// A value that WeChat requires as JSON inside a string. [`Nested`](super::Nested) parses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quoted<T>(pub T);

impl<T: Serialize> Serialize for Quoted<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // serde_json writes Chinese unescaped, here as elsewhere, because WeChat refuses \uXXXX
        // (40033).
        let json = serde_json::to_string(&self.0).map_err(ser::Error::custom)?;
        serializer.serialize_str(&json)
    }
}

/// The pictures of a store or a nearby place (`pic_list`): `{"list":["http://mmbiz.qpic.cn/…"]}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PicList {
    /// URLs from uploadimg.
    pub list: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_json_matches_the_documents() {
        let list = vec!["http://mmbiz.qpic.cn/门店/0".to_owned(), "http://b".to_owned()];
        assert_eq!(
            serde_json::to_string(&Quoted(PicList { list })).expect("JSON"),
            r#""{\"list\":[\"http://mmbiz.qpic.cn/门店/0\",\"http://b\"]}""#
        );
    }
}
