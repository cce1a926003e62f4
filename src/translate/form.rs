//! Checks values with a fixed form: ids, telephone numbers, license numbers, addresses of pictures.
//!
//! A form rejects what no such value can be, because WeChat's own error would come later or would not name
//! the field. If no document fixes the form, the check is lenient: only numbers with a limited type have a
//! limited length.

use crate::validate::Check;

/// WeChat's ids are unsigned numbers of 64 bits at most.
const MOST_DIGITS: usize = 20;
/// Ids of Tencent Maps are distributed over all numbers of 64 bits, so nearly all have 18 to 20 digits. One
/// of 100,000 has fewer than 16.
const LEAST_DIGITS_OF_MAP_POI_ID: usize = 16;
/// Old stores have ids of about nine digits. If a request has the id of a map place instead, WeChat only
/// returns that it is malformed (47001).
const MOST_DIGITS_OF_LEGACY_POI_ID: usize = LEAST_DIGITS_OF_MAP_POI_ID - 1;
/// The hosts of pictures that WeChat stores, mostly `mmbiz.qpic.cn`.
const PICTURE_HOSTS: [&str; 2] = [".qpic.cn", ".qlogo.cn"];

/// The form of one kind of value.
#[derive(Debug)]
pub(crate) struct Form {
    fits: fn(&str) -> bool,
    /// The rule for the caller.
    rule: &'static str,
}

impl Form {
    /// The path of a call of WeChat's. WeChat refuses one with a host.
    pub(crate) const API_PATH: Self = Self {
        fits: |text| {
            let is_good = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
            text.starts_with('/') && !text.starts_with("//") && text.bytes().all(is_good)
        },
        rule: "must be the path of a call of WeChat's without host and query, such as /wxa/add_store",
    };
    /// The app id of an account.
    pub(crate) const APP_ID: Self =
        Self { fits: is_word, rule: "must be an app id: letters, digits, - and _ only" };
    /// The id of a card.
    pub(crate) const CARD_ID: Self =
        Self { fits: is_word, rule: "must be the id of a card: letters, digits, - and _ only" };
    /// A license number (经营资质证件号): 15 digits, 9 of an organization code, or 18 of a
    /// unified code.
    pub(crate) const LICENSE_NUMBER: Self = Self {
        fits: |text| {
            let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '(' | ')');
            text.chars().all(is_good)
        },
        rule: "must be the number of a license: letters, digits, - and brackets only",
    };
    /// The id of an old store.
    pub(crate) const LEGACY_POI_ID: Self = Self {
        fits: |text| is_number(text) && text.len() <= MOST_DIGITS_OF_LEGACY_POI_ID,
        rule: "must be the poi_id of an old store, as ListLegacyStores gives it: some nine digits \
               0-9 only",
    };
    /// The id of a place of Tencent Maps.
    pub(crate) const MAP_POI_ID: Self = Self {
        fits: |text| {
            is_number(text)
                && text.len() >= LEAST_DIGITS_OF_MAP_POI_ID
                && text.parse::<u64>().is_ok()
        },
        rule: "must be the map_poi_id that SearchMapPois gives: all of its 19 or so digits 0-9, as \
               text and nothing else",
    };
    /// The id of an uploaded picture.
    pub(crate) const MEDIA_ID: Self = Self {
        fits: is_word,
        rule: "must be the media_id that UploadTemporaryImage gave: letters, digits, - and _ only",
    };
    /// The path of a page in a mini program.
    pub(crate) const PAGE_PATH: Self = Self {
        fits: |text| !text.contains(char::is_whitespace),
        rule: "must be the path of a page, without blanks",
    };
    /// A telephone number.
    pub(crate) const PHONE: Self = Self {
        fits: |text| {
            let is_good = |c: char| c.is_ascii_digit() || "+-() .,/*#转".contains(c);
            text.trim() == text
                && text.chars().all(is_good)
                && text.contains(|c: char| c.is_ascii_digit())
        },
        rule: "must be a telephone number: digits 0-9, and between them + - . , / * # brackets, \
               blanks and the Chinese sign of an extension only",
    };
    /// The address of an uploaded picture.
    pub(crate) const PICTURE: Self = Self {
        fits: is_picture,
        rule: "must be the URL that UploadImage gave, such as http://mmbiz.qpic.cn/mmbiz_png/.../0",
    };
    /// The id of a store or of a nearby place.
    pub(crate) const POI_ID: Self = Self {
        // 0 is a store that does not exist, and WeChat returns that error itself.
        fits: |text| text == "0" || is_number(text) && text.len() <= MOST_DIGITS,
        rule: "must be the poi_id that WeChat gave: digits 0-9 only",
    };
}

impl Check {
    /// Checks a value that is required and has a form.
    pub(crate) fn formed(&mut self, field: &str, value: String, form: &Form) -> String {
        if value.is_empty() {
            self.refuse(field, "required");
        }
        self.formed_if_any(field, value, form)
    }

    /// Checks a value that has a form unless it is empty.
    pub(crate) fn formed_if_any(&mut self, field: &str, value: String, form: &Form) -> String {
        if !value.is_empty() && !(form.fits)(&value) {
            self.refuse(field, form.rule);
        }
        value
    }

    /// Checks the path of a page, which is required.
    pub(super) fn page_path(&mut self, field: &str, path: String) -> String {
        let path = self.required(field, path);
        self.formed_if_any(field, path, &Form::PAGE_PATH)
    }

    /// Checks a new value: absent leaves the old one, and empty is invalid.
    pub(crate) fn formed_change(
        &mut self,
        field: &str,
        value: Option<String>,
        form: &Form,
    ) -> Option<String> {
        let value = value?;
        if value.is_empty() {
            self.refuse(field, crate::validate::CANNOT_CLEAR);
        }
        Some(self.formed_if_any(field, value, form))
    }
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Returns whether a text is a number other than 0, without leading zeros.
fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0')
}

/// Does not use `Url::parse`, which costs more than all other checks of a request and corrects errors.
fn is_picture(text: &str) -> bool {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return false;
    }
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let Some((host, path)) = rest.split_once('/') else { return false };
    // These characters exclude a user and a port.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let is_weixin = |ending: &&str| {
        let name = host.len().checked_sub(ending.len()).filter(|name| *name > 0);
        name.is_some_and(|name| host[name..].eq_ignore_ascii_case(ending))
    };
    ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
        && host.bytes().all(is_name)
        && PICTURE_HOSTS.iter().any(is_weixin)
        && !path.is_empty()
        && !path.starts_with(['?', '#'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(form: &Form, text: &str) -> bool {
        let mut check = Check::default();
        check.formed("field", text.to_owned(), form);
        check.done(()).is_ok()
    }

    #[test]
    fn map_place_id_is_a_64_bit_number() {
        for text in [
            "2880741500279549033",
            "5938314494307741153",
            // Both were seen at Tencent Maps.
            "14312873533493635930",
            "887637304642591005",
            "1000000000000000000",
        ] {
            assert!(fits(&Form::MAP_POI_ID, text), "{text}");
        }
        for text in [
            "",
            " 2880741500279549033",
            "2880741500279549033\u{3000}",
            "2880741500279549033\u{200b}",
            "2.88E+18",
            "2.88074150027955E+18",
            "2880741500279549033.0",
            "２８８０７４１５００２７９５４９０３３",
            "+2880741500279549033",
            "-2880741500279549033",
            "02880741500279549033",
            "28807415002795490330",
            "288074150027954903x",
            "472671857",
            "0",
        ] {
            assert!(!fits(&Form::MAP_POI_ID, text), "{text}");
        }
    }

    #[test]
    fn ids_of_stores_are_numbers() {
        for text in ["472671857", "1", "0", "2880741500279549033"] {
            assert!(fits(&Form::POI_ID, text), "{text}");
        }
        assert!(fits(&Form::LEGACY_POI_ID, "271262077"));
        assert!(!fits(&Form::LEGACY_POI_ID, "2880741500279549033"), "that of a map place");
        for text in ["472671857 ", "\u{feff}1", "４７２", "4.7E+8", "01", "472671857\n", "a"] {
            assert!(!fits(&Form::POI_ID, text) && !fits(&Form::LEGACY_POI_ID, text), "{text:?}");
        }
    }

    #[test]
    fn pictures_have_wechats_hosts() {
        for url in [
            "http://mmbiz.qpic.cn/mmbiz_jpg/tW66AWvE2K4EJx/0?wx_fmt=jpeg",
            "https://mmbiz.qpic.cn/a",
            "http://mmbiz.qlogo.cn/mmbiz/a/0",
            "https://mmecoa.qpic.cn/sz_mmecoa_png/a/640",
        ] {
            assert!(fits(&Form::PICTURE, url), "{url}");
        }
        for url in [
            "mmbiz.qpic.cn/a",
            "http://a",
            "https://cos.example.com/a.png",
            "ftp://mmbiz.qpic.cn/a",
            "http://mmbiz.qpic.cn.example.com/a",
            "http://example.com/mmbiz.qpic.cn/a",
            "http://mmbiz.qpic.cn@example.com/a",
            "http://a:b@mmbiz.qpic.cn/a",
            "http://qpic.cn.evil/a",
            "http://mmbiz.qpic.cn/",
            "http://mmbiz.qpic.cn/a b",
            " http://mmbiz.qpic.cn/a",
            "http://mmbiz.qpic.cn/a\u{200b}",
            "file:///a.png",
            "C:\\a.png",
        ] {
            assert!(!fits(&Form::PICTURE, url), "{url}");
        }
    }

    #[test]
    fn phones_have_digits_and_separators() {
        for text in ["110", "+86 20-89190388", "(020)89190388转801", "400-800-8820", "020-1"] {
            assert!(fits(&Form::PHONE, text), "{text}");
        }
        for text in
            [" 020-1", "020-1 ", "０２０-１２３", "电话", "无", "020-1\u{200b}", "1.3E+10", "-"]
        {
            assert!(!fits(&Form::PHONE, text), "{text}");
        }
    }

    #[test]
    fn license_numbers_and_words_are_ascii() {
        for text in ["156718193518281", "22883878-0", "91750100ME2XCR6A70", "310000400000001(1-1)"]
        {
            assert!(fits(&Form::LICENSE_NUMBER, text), "{text}");
        }
        for text in ["9175 0100", "９１７５", "1.5671819E+14", "91750100\u{feff}", "执照"] {
            assert!(!fits(&Form::LICENSE_NUMBER, text), "{text}");
        }
        for form in [&Form::APP_ID, &Form::CARD_ID, &Form::MEDIA_ID] {
            assert!(fits(
                form,
                "RTZgKZ386yFn5kQSWLTxe4bqxwgzGBjs3OE02cg9CVQk1wRVE3c8fjUFX7jvpi-P_"
            ));
            for text in ["a|b", "a b", " a", "a\u{200b}", "卡", "a\n"] {
                assert!(!fits(form, text), "{form:?} {text:?}");
            }
        }
    }
}
