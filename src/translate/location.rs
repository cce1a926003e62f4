//! Points (经纬度): one message here, two fields there.

use super::Check;
use crate::{pb::LatLng, wechat::Decimal};

impl Check {
    /// A point that has to be there, as the latitude and longitude that WeChat wants in text.
    ///
    /// Every digit is kept, and none is written as an exponent.
    pub(crate) fn location(&mut self, field: &str, point: Option<LatLng>) -> (String, String) {
        let Some(LatLng { latitude, longitude }) = point else {
            self.refuse(field, "required");
            return Default::default();
        };
        for (name, degrees, most) in [("latitude", latitude, 90.0), ("longitude", longitude, 180.0)]
        {
            // False for what is not a number.
            if !(-most..=most).contains(&degrees) {
                self.refuse(format!("{field}.{name}"), format!("has to be from -{most} to {most}"));
            }
        }
        (latitude.to_string(), longitude.to_string())
    }
}

impl LatLng {
    /// Reads a point; none where WeChat gives no whole one.
    pub(crate) fn read(latitude: Decimal, longitude: Decimal) -> Option<Self> {
        Some(Self { latitude: latitude.0?, longitude: longitude.0? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(latitude: f64, longitude: f64) -> Option<(String, String)> {
        let mut check = Check::default();
        let sent = check.location("location", Some(LatLng { latitude, longitude }));
        check.done(sent).ok()
    }

    #[test]
    fn a_point_keeps_its_digits() {
        let expected = ("23.0974903107".to_owned(), "113.323753357".to_owned());
        assert_eq!(sent(23.0974903107, 113.323753357), Some(expected));
        assert_eq!(sent(-90.0, 0.000_000_1), Some(("-90".to_owned(), "0.0000001".to_owned())));
    }

    #[test]
    fn what_is_on_no_map_is_refused() {
        for (latitude, longitude) in
            [(113.3, 23.1), (f64::NAN, 1.0), (1.0, f64::INFINITY), (0.0, 180.1)]
        {
            assert_eq!(sent(latitude, longitude), None, "{latitude} {longitude}");
        }
    }
}
