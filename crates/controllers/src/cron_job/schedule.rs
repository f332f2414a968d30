//! Cron schedules in the five-field notation, with names, ranges, steps and the `@` words.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// How far ahead a next time is looked for; beyond it a schedule (30 February) never comes.
const DAYS_AHEAD_MAX: usize = 366 * 5;

/// A parsed schedule: a bit per minute, hour, day, month and weekday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// With both days restricted, either may match, as cron has always had it.
    any_day: bool,
    any_weekday: bool,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let expanded = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = expanded.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: {fields:?}", fields.len()));
        };
        let mut weekday_bits = field(weekdays, 0, 7, &WEEKDAYS, 0)?;
        // Sunday is 0 and 7.
        if weekday_bits & (1 << 7) != 0 {
            weekday_bits |= 1;
        }
        Ok(Self {
            minutes: field(minutes, 0, 59, &[], 0)?,
            hours: field(hours, 0, 23, &[], 0)?,
            days: field(days, 1, 31, &[], 0)?,
            months: field(months, 1, 12, &MONTHS, 1)?,
            weekdays: weekday_bits & 0x7f,
            any_day: matches!(*days, "*" | "?"),
            any_weekday: matches!(*weekdays, "*" | "?"),
        })
    }

    fn matches_day(&self, date: Date) -> bool {
        let has = |bits: u64, value: i8| u32::try_from(value).is_ok_and(|value| bits & (1 << value) != 0);
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let by_day = if self.any_day || self.any_weekday { day && weekday } else { day || weekday };
        has(self.months, date.month()) && by_day
    }

    /// The first time after `after`, by the clock of `zone`.
    pub(super) fn next_after(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = zone.to_datetime(after);
        let mut date = start.date();
        for _ in 0..DAYS_AHEAD_MAX {
            if self.matches_day(date) {
                for hour in (0_i8..24).filter(|hour| self.hours & (1 << hour) != 0) {
                    for minute in (0_i8..60).filter(|minute| self.minutes & (1 << minute) != 0) {
                        let Ok(time) = Time::new(hour, minute, 0, 0) else { continue };
                        let candidate = DateTime::from_parts(date, time);
                        if candidate <= start {
                            continue;
                        }
                        if let Ok(zoned) = zone.to_timestamp(candidate)
                            && zoned > after
                        {
                            return Some(zoned);
                        }
                    }
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }
}

fn field(text: &str, low: u32, high: u32, names: &[&str], names_from: usize) -> Result<u64, String> {
    let mut bits = 0;
    for part in text.split(',') {
        bits |= range(part, low, high, names, names_from)?;
    }
    Ok(bits)
}

fn range(part: &str, low: u32, high: u32, names: &[&str], names_from: usize) -> Result<u64, String> {
    let value = |text: &str| -> Result<u32, String> {
        let named = names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text))
            .and_then(|index| u32::try_from(index + names_from).ok());
        named.or_else(|| text.parse().ok()).ok_or_else(|| format!("failed to parse int from {text}"))
    };
    let (span, step) = part.split_once('/').map_or((part, None), |(span, step)| (span, Some(step)));
    let step = step.map(value).transpose()?;
    if step == Some(0) {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    let (first, last) = match span {
        "*" | "?" => (low, high),
        _ => match span.split_once('-') {
            Some((first, last)) => (value(first)?, value(last)?),
            // `5/15` means: from 5 on.
            None => (value(span)?, if step.is_some() { high } else { value(span)? }),
        },
    };
    if first < low {
        return Err(format!("beginning of range ({first}) below minimum ({low}): {part}"));
    }
    if last > high {
        return Err(format!("end of range ({last}) above maximum ({high}): {part}"));
    }
    if first > last {
        return Err(format!("beginning of range ({first}) beyond end of range ({last}): {part}"));
    }
    let mut bits = 0;
    let mut at = first;
    while at <= last {
        bits |= 1 << at;
        at += step.unwrap_or(1);
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_come_when_they_say() {
        let check = |schedule: &str, after: &str, expected: &str| {
            let next = Schedule::parse(schedule)
                .ok()
                .zip(after.parse().ok())
                .and_then(|(schedule, after)| schedule.next_after(after, &TimeZone::UTC));
            assert_eq!(
                next.map(|next| next.to_string()).as_deref(),
                Some(expected).filter(|text| !text.is_empty()),
                "{schedule} after {after}"
            );
        };
        check("*/15 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:15:00Z");
        check("*/15 * * * *", "2026-01-01T23:50:30Z", "2026-01-02T00:00:00Z");
        check("0 3 * * mon-fri", "2026-01-02T04:00:00Z", "2026-01-05T03:00:00Z");
        check("0 0 29 feb *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z");
        check("0 0 13 * fri", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        check("5/20 1,2 * * *", "2026-01-01T01:30:00Z", "2026-01-01T01:45:00Z");
        check("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z");
        check("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z");
        check("0 0 30 2 *", "2026-01-01T00:00:00Z", "");
        for wrong in ["", "* * * *", "60 * * * *", "*/0 * * * *", "5-1 * * * *", "x * * * *", "* * 0 * *", "@sometimes"]
        {
            assert!(Schedule::parse(wrong).is_err(), "{wrong}");
        }
    }
}
