//! Times and sizes as people write them, and colour for those who see it.

use std::time::Duration;

/// How what is printed is seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// Columns of the terminal; `None` for whatever takes lines of any length.
    pub width: Option<usize>,
    /// Whether it shows colour.
    pub colour: bool,
}

/// What colour tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// To be looked at.
    Notable,
    /// Wrong.
    Bad,
}

/// The text in the colour of its tone, if colour is seen.
pub(crate) fn painted(text: &str, tone: Tone, colour: bool) -> String {
    // Green, yellow, bold red (ECMA-48 SGR).
    let code = match tone {
        Tone::Good => "32",
        Tone::Notable => "33",
        Tone::Bad => "1;31",
        Tone::Plain => return text.to_owned(),
    };
    if colour {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Seconds, with the digits that somebody reads.
pub(crate) fn time(seconds: f64) -> String {
    let ms = seconds * 1000.0;
    if ms <= 0.0 {
        "0 ms".to_owned()
    } else if ms < 1.0 {
        format!("{ms:.2} ms")
    } else if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else if seconds < 60.0 {
        format!("{seconds:.0} s")
    } else {
        span(seconds)
    }
}

/// Whole seconds, and at most two units.
pub(crate) fn span(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds)
        .unwrap_or_default()
        .as_secs();
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// Bytes, in powers of 1024.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let exponent = bytes.ilog2() / 10;
    let unit = UNITS[exponent as usize - 1];
    format!(
        "{:.1} {unit}",
        bytes as f64 / 2_f64.powi(10 * exponent as i32)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_people_write_them() {
        for (seconds, told) in [
            (0.0, "0 ms"),
            (0.000_254, "0.25 ms"),
            (0.002_44, "2.4 ms"),
            (0.12, "120 ms"),
            (1.499, "1.5 s"),
            (12.4, "12 s"),
            (75.0, "1m15s"),
            (3723.0, "1h02m"),
            (90_000.0, "1d01h"),
        ] {
            assert_eq!(time(seconds), told);
        }
    }

    #[test]
    fn sizes_are_as_people_write_them() {
        for (bytes, told) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (12_897_485, "12.3 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), told);
        }
    }

    #[test]
    fn colour_is_there_only_when_it_is_seen() {
        assert_eq!(painted("up", Tone::Good, true), "\x1b[32mup\x1b[0m");
        assert_eq!(painted("up", Tone::Good, false), "up");
        assert_eq!(painted("12", Tone::Plain, true), "12");
    }
}
