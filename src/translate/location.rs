//! Positions (经纬度): one message for callers, two fields for WeChat.

use crate::{pb::LatLng, validate::Check, wechat::Decimal};

/// All of China lies between these degrees north, from the Spratly Islands to Mohe …
const NORTH: (f64, f64) = (3.0, 54.0);
/// … and these degrees east, from the Pamir to the Ussuri.
const EAST: (f64, f64) = (73.0, 136.0);
/// In kilometers.
const EARTH_RADIUS: f64 = 6371.0;

impl Check {
    /// Checks a point, which is required, and returns its latitude and longitude as WeChat's text.
    ///
    /// The text has every digit and no exponent.
    pub(crate) fn location(&mut self, field: &str, point: Option<LatLng>) -> (String, String) {
        let Some(LatLng { latitude, longitude }) = point else {
            self.refuse(field, "required");
            return Default::default();
        };
        if latitude == 0.0 && longitude == 0.0 {
            self.refuse(field, "required: latitude and longitude are both 0");
        } else if is_in_china(longitude, latitude) {
            self.refuse(field, "latitude and longitude look swapped: latitude is degrees north");
        } else {
            for (name, degrees, (least, most)) in
                [("latitude", latitude, NORTH), ("longitude", longitude, EAST)]
            {
                // False for NaN.
                if !(least..=most).contains(&degrees) {
                    let rule = format!("must be from {least} to {most}, as all of China is");
                    self.refuse(format!("{field}.{name}"), rule);
                }
            }
        }
        (latitude.to_string(), longitude.to_string())
    }
}

/// Returns whether a point may be in China. A swapped point is never there, because the two ranges of
/// degrees do not overlap.
fn is_in_china(latitude: f64, longitude: f64) -> bool {
    let within = |(least, most): (f64, f64), degrees: f64| (least..=most).contains(&degrees);
    within(NORTH, latitude) && within(EAST, longitude)
}

impl LatLng {
    /// Returns how far it is to another point, in kilometers.
    pub(crate) fn kilometers_to(&self, other: &Self) -> f64 {
        let [(north, east), (other_north, other_east)] =
            [self, other].map(|point| (point.latitude.to_radians(), point.longitude.to_radians()));
        let half = |degrees: f64| (degrees / 2.0).sin().powi(2);
        let haversine =
            half(other_north - north) + north.cos() * other_north.cos() * half(other_east - east);
        2.0 * EARTH_RADIUS * haversine.sqrt().min(1.0).asin()
    }

    /// Returns the point that WeChat shows, or `None` if it is not complete. Impossible degrees are added
    /// to `unreadable`, by WeChat's names.
    pub(crate) fn from_wechat(
        latitude: Decimal,
        longitude: Decimal,
        unreadable: &mut Vec<String>,
    ) -> Option<Self> {
        let mut degrees = |name: &str, Decimal(degrees): Decimal, most: f64| {
            let degrees = degrees?;
            let possible = (-most..=most).contains(&degrees);
            if !possible {
                unreadable.push(name.to_owned());
            }
            possible.then_some(degrees)
        };
        let latitude = degrees("latitude", latitude, 90.0);
        let longitude = degrees("longitude", longitude, 180.0);
        Some(Self { latitude: latitude?, longitude: longitude? })
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
    fn point_keeps_its_digits() {
        let expected = ("23.0974903107".to_owned(), "113.323753357".to_owned());
        assert_eq!(sent(23.0974903107, 113.323753357), Some(expected));
        assert_eq!(sent(3.000_000_1, 73.0), Some(("3.0000001".to_owned(), "73".to_owned())));
    }

    fn errors(latitude: f64, longitude: f64) -> Vec<String> {
        let mut check = Check::default();
        check.location("location", Some(LatLng { latitude, longitude }));
        let invalid = check.done(()).expect_err("on no map of China");
        invalid.violations().iter().map(|one| format!("{} {}", one.field, one.rule)).collect()
    }

    #[test]
    fn points_outside_china_are_rejected() {
        for (latitude, longitude, field) in [
            (0.0, 0.0, "location required"),
            (-0.0, 0.0, "location required"),
            (f64::NAN, 113.3, "location.latitude "),
            (23.1, f64::INFINITY, "location.longitude "),
            (23.1, 180.1, "location.longitude "),
            (23.1, 0.0, "location.longitude "),
            // New York.
            (40.7, -74.0, "location.longitude "),
            (-23.1, 113.3, "location.latitude "),
        ] {
            let errors = errors(latitude, longitude);
            assert!(errors[0].starts_with(field), "{errors:?}");
            assert_eq!(errors.len(), 1, "{errors:?}");
        }
    }

    #[test]
    fn swapped_numbers_are_reported() {
        // Guangzhou, and Kashgar, whose degrees east could be degrees north.
        for (latitude, longitude) in [(113.3, 23.1), (75.99, 39.47)] {
            let errors = errors(latitude, longitude);
            assert!(errors[0].starts_with("location latitude and longitude look swapped"));
        }
    }

    #[test]
    fn distances_follow_the_globe() {
        let point = |latitude, longitude| LatLng { latitude, longitude };
        let (beijing, guangzhou) = (point(39.904, 116.407), point(23.129, 113.264));
        let distance = beijing.kilometers_to(&guangzhou);
        assert!((1_880.0..1_900.0).contains(&distance), "{distance}");
        assert_eq!(beijing.kilometers_to(&beijing), 0.0);
    }
}
