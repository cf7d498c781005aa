//! What single values may be. Each function reads one TOML value, or says what is wrong with it as
//! a predicate: `is 0; it must be 1 to 65536`.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use axum::http::uri::{Authority, PathAndQuery};
use humantime::format_duration;
use toml::de::DeValue;

use super::{
    AGENT_SEND_BYTES_MAX, DURATION_MAX, DURATION_MIN, HOST_BYTES_MAX, INTERFACE_BYTES_MAX,
    NAME_BYTES_MAX, PATH_BYTES_MAX, SOCKET_PATH_BYTES_MAX,
};

/// Most characters of a value that a message repeats.
const SHOWN_CHARS_MAX: usize = 80;

/// A value as messages show it.
pub(super) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(integer) => shortened(&integer.to_string()),
        DeValue::Float(float) => shortened(float.as_str()),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(datetime) => datetime.to_string(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn must_be(value: &DeValue<'_>, what: &str) -> String {
    format!("is {}; it must be {what}", describe(value))
}

/// A text.
pub(super) fn text<'a>(value: &'a DeValue<'a>) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| must_be(value, "a string"))
}

/// A whole number within bounds; `why` they are so, where that is not plain.
pub(super) fn integer(
    range: RangeInclusive<u32>,
    why: &str,
) -> impl FnOnce(&DeValue<'_>) -> Result<u32, String> {
    move |value| {
        value
            .as_integer()
            .and_then(|integer| u32::from_str_radix(integer.as_str(), integer.radix()).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let (least, most) = (range.start(), range.end());
                must_be(value, &format!("{least} to {most}{why}"))
            })
    }
}

/// Yes or no.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value
        .as_bool()
        .ok_or_else(|| must_be(value, "true or false"))
}

/// A port.
pub(super) fn port(value: &DeValue<'_>) -> Result<NonZeroU16, String> {
    let most = u32::from(u16::MAX);
    let number = integer(1..=most, "")(value)?;
    let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
    port.ok_or_else(|| must_be(value, "a port"))
}

/// A duration within [`DURATION_MIN`] and [`DURATION_MAX`].
pub(super) fn duration(value: &DeValue<'_>) -> Result<Duration, String> {
    duration_in(DURATION_MIN..=DURATION_MAX, "")(value)
}

/// A duration within bounds; `why` they are so, where that is not plain.
pub(super) fn duration_in(
    range: RangeInclusive<Duration>,
    why: &str,
) -> impl FnOnce(&DeValue<'_>) -> Result<Duration, String> {
    move |value| {
        let duration = value
            .as_str()
            .and_then(|text| humantime::parse_duration(text).ok())
            .ok_or_else(|| {
                must_be(
                    value,
                    r#"a duration with its unit, such as "5s" or "250ms""#,
                )
            })?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let (least, most) = (
            format_duration(*range.start()),
            format_duration(*range.end()),
        );
        Err(must_be(value, &format!("{least} to {most}{why}")))
    }
}

/// A whole percentage within bounds; `why` they are so, where that is not plain.
pub(super) fn percent(
    range: RangeInclusive<u32>,
    why: &str,
) -> impl FnOnce(&DeValue<'_>) -> Result<u32, String> {
    move |value| {
        let number = value.as_str().and_then(|text| text.strip_suffix('%'));
        let digits = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        let percent = digits.and_then(|digits| digits.parse().ok());
        percent
            .filter(|percent| range.contains(percent))
            .ok_or_else(|| {
                let (least, most) = (range.start(), range.end());
                must_be(
                    value,
                    &format!("a percentage, \"{least}%\" to \"{most}%\"{why}"),
                )
            })
    }
}

/// One word of a list.
pub(super) fn choice<'c, T: Clone>(
    choices: &'c [(&'static str, T)],
) -> impl FnOnce(&DeValue<'_>) -> Result<T, String> + 'c {
    move |value| {
        let word = value.as_str();
        let chosen = choices.iter().find(|(known, _)| Some(*known) == word);
        chosen.map(|(_, choice)| choice.clone()).ok_or_else(|| {
            let words: Vec<_> = choices
                .iter()
                .map(|(word, _)| format!("{word:?}"))
                .collect();
            must_be(value, &words.join(" or "))
        })
    }
}

/// A name: labels in metrics, arguments on the command line.
pub(super) fn name<'a>(value: &'a DeValue<'a>) -> Result<&'a str, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let name = text(value)?;
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(name);
    }
    let what = format!("1 to {NAME_BYTES_MAX} letters, digits, dots, underscores or hyphens");
    Err(must_be(value, &what))
}

/// An address and port that packets of other machines can have as their destination.
pub(super) fn address(value: &DeValue<'_>) -> Result<SocketAddr, String> {
    let address = socket_address(value)?;
    let ip = address.ip();
    let fault = match ip {
        _ if ip.is_unspecified() => "the unspecified address",
        _ if ip.is_multicast() => "a multicast address",
        _ if ip.is_loopback() => "a loopback address, which no packet on a wire has",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(v4) if v4.is_link_local() => "a link-local address, which is not routed",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address, which is not routed",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4 address in disguise",
        _ => return Ok(address),
    };
    Err(format!(
        "is {}, {fault}; it must be a unicast address of one host",
        describe(value)
    ))
}

/// An address and port to listen on.
pub(super) fn socket_address(value: &DeValue<'_>) -> Result<SocketAddr, String> {
    let text = value.as_str().unwrap_or_default();
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let example = SocketAddr::new(ip, 80);
        return Err(format!(r#"is {text:?}, without a port; write "{example}""#));
    }
    let what = r#"an address and port, such as "192.0.2.10:80" or "[2001:db8::10]:80""#;
    let address: SocketAddr = text.parse().map_err(|_| must_be(value, what))?;
    if address.port() == 0 {
        return Err(format!("is {text:?}; its port must be 1 to 65535"));
    }
    Ok(address)
}

/// What an agent is sent over TCP.
pub(super) fn agent_send(value: &DeValue<'_>) -> Result<String, String> {
    let send = text(value)?;
    if send.len() > AGENT_SEND_BYTES_MAX {
        let length = send.len();
        return Err(format!(
            "has {length} bytes; an agent is sent at most {AGENT_SEND_BYTES_MAX}"
        ));
    }
    Ok(send.to_owned())
}

/// Path and query of a request.
pub(super) fn http_path(value: &DeValue<'_>) -> Result<String, String> {
    let path = text(value)?;
    let stands = path.starts_with('/') && !path.contains('#');
    if path.len() <= PATH_BYTES_MAX && stands && PathAndQuery::from_str(path).is_ok() {
        return Ok(path.to_owned());
    }
    let what = format!(
        "an HTTP path of at most {PATH_BYTES_MAX} bytes, beginning with \"/\", \
         percent-encoded"
    );
    Err(must_be(value, &what))
}

/// The `Host` of a request.
pub(super) fn http_host(value: &DeValue<'_>) -> Result<String, String> {
    let host = text(value)?;
    let stands = Authority::from_str(host).is_ok() && !host.contains('@');
    if host.len() <= HOST_BYTES_MAX && stands {
        return Ok(host.to_owned());
    }
    let what = format!(
        "a host of at most {HOST_BYTES_MAX} bytes, with a port or without, such as \"web.example\""
    );
    Err(must_be(value, &what))
}

/// One status of HTTP, or a range of them.
pub(super) fn http_status(value: &DeValue<'_>) -> Result<RangeInclusive<u16>, String> {
    let number = |digits: &str| {
        let three = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = three.then(|| digits.parse().ok()).flatten();
        number.filter(|number| (100..=599).contains(number))
    };
    let range = match value {
        DeValue::Integer(_) => integer(100..=599, "")(value)
            .ok()
            .and_then(|one| u16::try_from(one).ok())
            .map(|one| one..=one),
        DeValue::String(text) => match text.split_once('-') {
            None => number(text).map(|one| one..=one),
            Some((first, last)) => number(first).zip(number(last)).map(|(a, b)| a..=b),
        },
        _ => None,
    };
    let range = range.filter(|range| !range.is_empty());
    range.ok_or_else(|| {
        let what =
            "an HTTP status or a range of them within 100 to 599, such as 200 or \"200-299\"";
        must_be(value, what)
    })
}

/// An address that this machine may have.
pub(super) fn source(value: &DeValue<'_>) -> Result<IpAddr, String> {
    let source: Option<IpAddr> = value.as_str().and_then(|text| text.parse().ok());
    let stands = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback();
    source
        .filter(stands)
        .ok_or_else(|| must_be(value, r#"an address of this machine, such as "10.0.0.1""#))
}

/// The name of a network interface, by the kernel's rules.
pub(super) fn interface(name: &str) -> Result<(), String> {
    let refused = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > INTERFACE_BYTES_MAX {
        let length = name.len();
        return Err(format!(
            "has {} of {length} bytes; an interface's name has 1 to {INTERFACE_BYTES_MAX}",
            quoted(name)
        ));
    }
    if matches!(name, "." | "..") || name.contains(refused) {
        return Err(format!(
            "has {}, which no interface can be named",
            quoted(name)
        ));
    }
    Ok(())
}

/// An absolute path without `.`, `..` and NUL.
fn path(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let path = Path::new(text(value)?);
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    let nul = path.as_os_str().as_encoded_bytes().contains(&0);
    if !path.is_absolute() || nul || !path.components().all(plain) {
        return Err(must_be(value, r#"an absolute path without "..""#));
    }
    Ok(path.to_path_buf())
}

/// The path of a Unix socket.
pub(super) fn socket_path(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let path = path(value)?;
    let length = path.as_os_str().len();
    if path.file_name().is_none() || length > SOCKET_PATH_BYTES_MAX {
        return Err(format!(
            "has {length} bytes; the path of a socket has 2 to {SOCKET_PATH_BYTES_MAX}"
        ));
    }
    Ok(path)
}

/// A directory on a BPF file system, which refuses names with a dot.
pub(super) fn pin_path(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let path = path(value)?;
    let name = path.file_name().map(std::ffi::OsStr::as_encoded_bytes);
    if name.is_none_or(|name| name.contains(&b'.')) {
        let what =
            "a directory of its own, without a dot in its name: BPF file systems refuse dots";
        return Err(must_be(value, what));
    }
    Ok(path)
}
