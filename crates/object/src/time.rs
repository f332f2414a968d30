//! Timestamps and durations as the API writes them.

use jiff::{SignedDuration, Timestamp};

/// `2026-11-23T00:20:00Z`: meta/v1 Time, whole seconds.
#[must_use]
pub fn format_rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-11-23T00:20:00.000000Z`: meta/v1 MicroTime.
#[must_use]
pub fn format_micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads RFC 3339 with any offset and fraction. A date without time or zone is refused.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    // The library reads more of ISO 8601 than RFC 3339 and upstream's decoder allow.
    let shape = bytes.len() >= 20
        && bytes.len() <= 64
        && bytes.is_ascii()
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && bytes[10] == b'T'
        && bytes[13] == b':'
        && bytes[16] == b':'
        && !text.contains('[')
        && bytes[17..].iter().any(|byte| matches!(byte, b'Z' | b'+' | b'-'));
    if shape { text.parse().ok() } else { None }
}

/// Why [`parse`] refuses a text, as Go's `time.Parse` words it.
#[must_use]
pub fn parse_fault(text: &str) -> String {
    const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
    const PARTS: [(&str, u32); 11] = [
        ("2006", 0),
        ("-", 0),
        ("01", 12),
        ("-", 0),
        ("02", 31),
        ("T", 0),
        ("15", 23),
        (":", 0),
        ("04", 59),
        (":", 0),
        ("05", 59),
    ];
    let head = format!("parsing time {text:?} as {LAYOUT:?}:");
    let mut rest = text;
    for (part, most) in PARTS {
        let (found, after) = rest.split_at_checked(part.len()).unwrap_or((rest, ""));
        let is_number = part.len() > 1;
        let fits = if is_number {
            found.len() == part.len() && found.bytes().all(|byte| byte.is_ascii_digit())
        } else {
            found == part
        };
        if !fits {
            return format!("{head} cannot parse {rest:?} as {part:?}");
        }
        let number: u32 = found.parse().unwrap_or_default();
        let least = u32::from(matches!(part, "01" | "02"));
        if most > 0 && !(least..=most).contains(&number) {
            let name = match part {
                "01" => "month",
                "02" => "day",
                "15" => "hour",
                "04" => "minute",
                _ => "second",
            };
            return format!("parsing time {text:?}: {name} out of range");
        }
        rest = after;
    }
    if let Some(fraction) = rest.strip_prefix('.') {
        rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    match rest {
        "Z" => format!("parsing time {text:?}: day out of range"),
        _ if rest.starts_with('Z') => format!("parsing time {text:?}: extra text: {:?}", &rest[1..]),
        _ => format!("{head} cannot parse {rest:?} as \"Z07:00\""),
    }
}

/// The age column's form, such as `5d3h`, `12m`, `45s`: at most two units, coarser with size.
#[must_use]
pub fn duration_short(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit}{small}{small_unit}") }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if days < 365 * 2 => format!("{days}d"),
        () if days < 365 * 8 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

/// Reads Go's duration notation (`1h2m`, `1.5s`, `300ms`, `-2us`); a sum too large for the range is refused.
#[must_use]
pub fn parse_go_duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.bytes().position(|byte| !byte.is_ascii_digit() && byte != b'.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.bytes().position(|byte| byte.is_ascii_digit() || byte == b'.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 19 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total += whole * scale;
        let mut step = scale;
        for digit in fraction.bytes().take(18) {
            step /= 10;
            total += i128::from(digit - b'0') * step;
        }
        rest = tail;
    }
    let nanoseconds = i64::try_from(if negative { -total } else { total }).ok()?;
    Some(SignedDuration::from_nanos(nanoseconds))
}

/// Writes Go's duration notation: `1h2m0s`, `1.5s`, `300ms`, `0s`.
#[must_use]
pub fn format_go_duration(duration: SignedDuration) -> String {
    let total = duration.as_nanos();
    let sign = if total < 0 { "-" } else { "" };
    let total = total.unsigned_abs();
    let decimal = |unit: u128, width: usize| {
        let (whole, part) = (total / unit, total % unit);
        let fraction = format!("{part:0width$}");
        let fraction = fraction.trim_end_matches('0');
        if fraction.is_empty() { whole.to_string() } else { format!("{whole}.{fraction}") }
    };
    match total {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{total}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(1_000, 3)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(1_000_000, 6)),
        _ => {
            let minutes = total / 60_000_000_000;
            let part = total % 60_000_000_000;
            let fraction = format!("{:09}", part % 1_000_000_000);
            let fraction = fraction.trim_end_matches('0');
            let dot = if fraction.is_empty() { "" } else { "." };
            let seconds = format!("{}{dot}{fraction}s", part / 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn timestamps_are_written_and_read() {
        let time: Timestamp = "2026-11-23T00:20:05.123456789Z".parse().unwrap();
        assert_eq!(format_rfc3339(time), "2026-11-23T00:20:05Z");
        assert_eq!(format_micro(time), "2026-11-23T00:20:05.123456Z");
        assert_eq!(parse("2026-11-23T01:20:05+01:00").map(format_rfc3339).as_deref(), Some("2026-11-23T00:20:05Z"));
        for bad in [
            "",
            "2026-11-23",
            "2026-11-23T00:20:05",
            "2026-11-23 00:20:05Z",
            "2026-13-23T00:20:05Z",
            "yesterday at some time",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        for (bad, why) in [
            ("x", r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#),
            ("2026-11-23", r#"parsing time "2026-11-23" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#),
            ("2026-13-23T00:20:05Z", r#"parsing time "2026-13-23T00:20:05Z": month out of range"#),
            ("2026-02-30T00:20:05Z", r#"parsing time "2026-02-30T00:20:05Z": day out of range"#),
            (
                "2026-11-23T00:20:05",
                r#"parsing time "2026-11-23T00:20:05" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "Z07:00""#,
            ),
        ] {
            assert_eq!(parse_fault(bad), why);
        }
    }

    #[test]
    fn ages_are_short() {
        for (seconds, expected) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600 + 60, "9h"),
            (47 * 3600, "47h"),
            (51 * 3600, "2d3h"),
            (48 * 3600, "2d"),
            (9 * 86400, "9d"),
            (2 * 365 * 86400, "2y"),
            ((2 * 365 + 3) * 86400, "2y3d"),
            (9 * 365 * 86400, "9y"),
        ] {
            assert_eq!(duration_short(SignedDuration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn go_durations_are_read_and_written() {
        for (text, canonical) in [
            ("1h2m", "1h2m0s"),
            ("90s", "1m30s"),
            ("1.5s", "1.5s"),
            ("300ms", "300ms"),
            ("-2us", "-2µs"),
            ("0", "0s"),
            ("5ns", "5ns"),
            ("1h0m0.25s", "1h0m0.25s"),
        ] {
            assert_eq!(parse_go_duration(text).map(format_go_duration).as_deref(), Some(canonical), "{text}");
        }
        for bad in ["", "-", "1", "s", "1d", "1.2.3s", ".s", "99999999999999999999h", "9999999999999h"] {
            assert_eq!(parse_go_duration(bad), None, "{bad}");
        }
    }
}
