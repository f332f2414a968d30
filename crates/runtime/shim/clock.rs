//! Writes the time the way CRI log lines begin: `2026-11-23T00:00:00.123456789Z`. No allocation, no libraries.

/// The length of what `write_time` writes.
pub const TIME_BYTES: usize = 30;

fn digits(out: &mut [u8], mut value: u64) {
    for byte in out.iter_mut().rev() {
        *byte = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Writes nanoseconds since 1970 as RFC 3339 with nanoseconds in UTC.
pub fn write_time(out: &mut [u8; TIME_BYTES], since_epoch_ns: u64) {
    let seconds = since_epoch_ns / 1_000_000_000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // The civil calendar from days since 1970, in 400-year eras that begin on a first of March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    out.copy_from_slice(b"0000-00-00T00:00:00.000000000Z");
    digits(&mut out[0..4], year);
    digits(&mut out[5..7], month);
    digits(&mut out[8..10], day);
    digits(&mut out[11..13], of_day / 3_600);
    digits(&mut out[14..16], of_day / 60 % 60);
    digits(&mut out[17..19], of_day % 60);
    digits(&mut out[20..29], since_epoch_ns % 1_000_000_000);
}
