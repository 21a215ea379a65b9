//! Who may ask: the key, and the defences of a server on loopback against the pages in its user's browser.
//!
//! A page from anywhere can send requests to loopback. It cannot set `Content-Type: application/json` without a preflight,
//! which is answered only to origins that were allowed; and where its own name was made to point here (DNS rebinding), `Host`
//! tells.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, Uri, header};
use subtle::{Choice, ConstantTimeEq as _};

use crate::error::Refusal;

/// What is asked of requests.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Keys, one of which every request needs; empty if none is needed.
    keys: Vec<[u8; 32]>,
    /// Names that `Host` may have, beside addresses and those of this machine.
    hosts: Vec<String>,
    /// Origins whose pages may ask.
    origins: Vec<String>,
}

impl Access {
    /// Those who know one of `keys` may ask; anybody if there are none. `hosts` are further names of this server, `origins` those
    /// whose pages may ask, as in `https://example.com`.
    pub fn new(keys: &[String], hosts: &[String], origins: &[String]) -> Access {
        let lower = |texts: &[String]| texts.iter().map(|text| text.to_ascii_lowercase()).collect();
        Access { keys: keys.iter().map(|key| digest(key)).collect(), hosts: lower(hosts), origins: lower(origins) }
    }

    /// Whether requests need a key.
    pub fn needs_key(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether a request came to a name of ours, from a page that may ask, if from one.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check_way(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Refusal> {
        if headers.get_all(header::HOST).iter().count() > 1 {
            return Err(Refusal::body("there is more than one Host header"));
        }
        let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
        let host = host.or_else(|| uri.host()).unwrap_or_default();
        if !self.is_ours(host) {
            let message = "this server does not answer to that Host; name it with --allow-host";
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "foreign_host", message));
        }
        match headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or("null")) {
            Some(origin) if !self.allows(origin) && !is_same(origin, host) => {
                let message = "pages of that Origin may not ask here; allow it with --cors";
                Err(Refusal::new(StatusCode::FORBIDDEN, "foreign_origin", message))
            }
            _ => Ok(()),
        }
    }

    /// Whether pages of an origin may ask.
    pub(crate) fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed == "*" || *allowed == origin.to_ascii_lowercase())
    }

    /// Whether a request brings a key.
    ///
    /// # Errors
    /// It brings none, or a wrong one.
    pub(crate) fn check_key(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        let given = bearer.or_else(|| headers.get("x-api-key").map(|key| key.as_bytes()));
        let known = given.is_some_and(|given| {
            let given: [u8; 32] = *blake3::hash(given).as_bytes();
            let same = self.keys.iter().fold(Choice::from(0), |same, key| same | key.ct_eq(&given));
            same.into()
        });
        let refusal = || Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", "the API key is missing or wrong");
        known.then_some(()).ok_or_else(refusal)
    }

    /// Whether `host`, with or without a port, is an address or a name of ours: a page cannot make itself come from either.
    fn is_ours(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
        let is_address = bare.parse::<IpAddr>().is_ok();
        is_address || name == "localhost" || name.ends_with(".localhost") || self.hosts.contains(&name)
    }
}

fn digest(key: &str) -> [u8; 32] {
    *blake3::hash(key.as_bytes()).as_bytes()
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
}

fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') && host.matches(':').count() == 1 || host.contains("]:") => {
            &host[..colon]
        }
        _ => host,
    }
}

/// Whether a page of `origin` is one of this server's own.
fn is_same(origin: &str, host: &str) -> bool {
    origin.split_once("://").is_some_and(|(_, of)| of.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn way(access: &Access, pairs: &[(&str, &str)]) -> Option<u16> {
        access.check_way(&headers(pairs), &Uri::from_static("/v1/models")).err().map(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn a_foreign_name_leads_nowhere() {
        let access = Access::new(&[], &["box.lan".into()], &[]);
        for host in [
            "127.0.0.1",
            "127.0.0.1:8000",
            "[::1]:8000",
            "[::1]",
            "localhost",
            "LOCALHOST:1",
            "a.localhost:80",
            "Box.lan:8000",
        ] {
            assert_eq!(way(&access, &[("host", host)]), None, "{host}");
        }
        for host in [
            "evil.com",
            "localhost.evil.com",
            "notlocalhost",
            "127.0.0.1.evil.com",
            "",
            "a@127.0.0.1",
            "evil.com:8000",
            "[::1",
        ] {
            assert_eq!(way(&access, &[("host", host)]), Some(421), "{host}");
        }
        assert_eq!(way(&access, &[("host", "localhost"), ("host", "evil.com")]), Some(400));
        assert_eq!(way(&access, &[]), Some(421));
    }

    #[test]
    fn pages_of_others_may_not_ask() {
        let access = Access::new(&[], &[], &["https://Good.example".into()]);
        let from = |origin| way(&access, &[("host", "localhost:8000"), ("origin", origin)]);
        assert_eq!(from("http://localhost:8000"), None);
        assert_eq!(from("https://good.example"), None);
        for origin in [
            "https://evil.com",
            "null",
            "http://localhost.evil.com",
            "http://localhost:8001",
            "https://good.example.evil.com",
            "",
        ] {
            assert_eq!(from(origin), Some(403), "{origin}");
        }
    }

    #[test]
    fn one_of_the_keys_opens() {
        let access = Access::new(&["first key".into(), "second".into()], &[], &[]);
        let status = |pairs: &[(&str, &str)]| access.check_key(&headers(pairs)).err().map(|r| r.status.as_u16());
        assert_eq!(status(&[("authorization", "Bearer first key")]), None);
        assert_eq!(status(&[("authorization", "bearer second")]), None);
        assert_eq!(status(&[("x-api-key", "second")]), None);
        for wrong in ["Bearer firs", "Bearer first keyy", "second", "Basic second", "Bearer", ""] {
            assert_eq!(status(&[("authorization", wrong)]), Some(401), "{wrong}");
        }
        assert_eq!(status(&[]), Some(401));
        assert_eq!(Access::default().check_key(&headers(&[])).err().map(|r| r.status), None);
    }
}
