//! The identity that a service mesh or a proxy puts into a header, because it ended the caller's TLS.

/// Returns the names of the client in the value of such a header.
///
/// Envoy's `x-forwarded-client-cert` has an element for each proxy, and the last one is from the proxy in front
/// of the gateway. Its names are those after `URI=` and `DNS=`. A value without such pairs is a name itself, as in
/// Linkerd's `l5d-client-id`. Returns no name if the value is malformed.
pub(super) fn names(value: &[u8]) -> Vec<String> {
    let Ok(value) = std::str::from_utf8(value) else { return Vec::new() };
    let Some(elements) = split(value, b',') else { return Vec::new() };
    let last = elements.last().copied().unwrap_or_default().trim();
    let Some(pairs) = split(last, b';') else { return Vec::new() };
    // Each certificate has one identity. A second one may be smuggled in.
    if pairs.iter().filter(|pair| pair.trim().to_ascii_uppercase().starts_with("URI=")).count() > 1
    {
        return Vec::new();
    }
    if !last.contains(['=', '"']) {
        return if last.is_empty() { Vec::new() } else { vec![last.to_owned()] };
    }
    let named = pairs.into_iter().filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let (is_uri, is_dns) =
            (key.trim().eq_ignore_ascii_case("URI"), key.trim().eq_ignore_ascii_case("DNS"));
        let name = value.trim();
        let name = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(name);
        // A name never needs an escape, so a value that has one is none. Only a URI has a colon.
        let fits = !name.is_empty() && !name.contains(['"', '\\']);
        match name.contains(':') {
            true => (fits && is_uri).then(|| name.to_owned()),
            false => (fits && is_dns).then(|| name.to_ascii_lowercase()),
        }
    });
    named.collect()
}

/// Splits a text at a byte outside of quotes. Returns `None` if a quote is not closed.
fn split(text: &str, at: u8) -> Option<Vec<&str>> {
    let (mut parts, mut begin) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            // `at` is ASCII, so the text can be split here.
            byte if byte == at && !quoted => {
                parts.push(&text[begin..index]);
                begin = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    (!quoted).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_nearest_proxy_are_found() {
        for (value, expected) in [
            ("By=spiffe://a;Hash=1;URI=spiffe://prod/orders", &["spiffe://prod/orders"][..]),
            (
                "URI=spiffe://far,By=b;URI=spiffe://near;DNS=a.b;DNS=c.d",
                &["spiffe://near", "a.b", "c.d"],
            ),
            ("Subject=\"CN=x,URI=spiffe://fake;O=y\";uri=\"spiffe://real\"", &["spiffe://real"]),
            ("Subject=\"a\\\",URI=spiffe://fake\";DNS=real", &["real"]),
            ("URI=spiffe://a, Hash=1", &[]),
            ("URI=;DNS=", &[]),
            ("URI=orders.internal;DNS=spiffe://prod/orders", &[]),
            ("URI=spiffe://a;uri=spiffe://b;DNS=c", &[]),
            ("DNS=Orders.Internal", &["orders.internal"]),
            ("Subject=\"never closed;URI=spiffe://a", &[]),
            ("Subject=URI", &[]),
            ("URI=\"a\\\"b\"", &[]),
            (
                "orders.shop.serviceaccount.identity.linkerd.cluster.local",
                &["orders.shop.serviceaccount.identity.linkerd.cluster.local"],
            ),
            ("", &[]),
            ("a,", &[]),
        ] {
            assert_eq!(names(value.as_bytes()), expected, "{value}");
        }
        assert!(names(b"URI=\xff").is_empty());
    }
}
