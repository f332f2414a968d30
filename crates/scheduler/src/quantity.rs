//! Reads resource quantities into integers (whole units or thousandths), rounding up as upstream does.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The quantity in thousandths of its unit (cpu), rounded up and clamped to `i64`. `None` if it is not a quantity.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1000)
}

/// The quantity in whole units (bytes, counts), rounded up and clamped to `i64`. `None` if it is not a quantity.
pub fn units(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1)
}

/// More digits than this carry no information that fits an `i64` at any suffix.
const DIGITS_MAX: usize = 28;

fn scaled(text: &str, scale: i128) -> Option<i64> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() + fraction.len() > DIGITS_MAX {
        return None;
    }
    let mut mantissa: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        mantissa = mantissa * 10 + i128::from(digit - b'0');
    }
    let (binary_power, decimal_power) = suffix_powers(suffix)?;
    let decimal_power = decimal_power - i32::try_from(fraction.len()).ok()?;
    let magnitude = scale_up(mantissa, scale, binary_power, decimal_power);
    let signed = if negative { -magnitude } else { magnitude };
    Some(i64::try_from(signed).unwrap_or(if negative { i64::MIN } else { i64::MAX }))
}

fn suffix_powers(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let exponent: i32 = exponent.parse().ok()?;
            (-40..=40).contains(&exponent).then_some((0, exponent))?
        }
    })
}

fn scale_up(mantissa: i128, scale: i128, binary_power: u32, decimal_power: i32) -> i128 {
    let saturated = i128::from(i64::MAX) + 1;
    let Some(mut value) = mantissa.checked_mul(scale).and_then(|value| value.checked_mul(1_i128 << binary_power))
    else {
        return saturated;
    };
    for _ in 0..decimal_power.max(0) {
        match value.checked_mul(10) {
            Some(next) => value = next,
            None => return saturated,
        }
    }
    match 10_i128.checked_pow(decimal_power.min(0).unsigned_abs()) {
        Some(divisor) => (value + divisor - 1) / divisor,
        None => i128::from(value > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_round_up_and_clamp() {
        let check = |text: &str, expected_milli: Option<i64>, expected_units: Option<i64>| {
            let quantity = Quantity(text.to_owned());
            assert_eq!((milli(&quantity), units(&quantity)), (expected_milli, expected_units), "{text}");
        };
        check("100m", Some(100), Some(1));
        check("1.5", Some(1500), Some(2));
        check("0.0001", Some(1), Some(1));
        check("64Mi", Some(67_108_864_000), Some(67_108_864));
        check("1.5Gi", Some(1_610_612_736_000), Some(1_610_612_736));
        check("5e3", Some(5_000_000), Some(5000));
        check("1E", Some(i64::MAX), Some(1_000_000_000_000_000_000));
        check("9999Ei", Some(i64::MAX), Some(i64::MAX));
        check("-3", Some(-3000), Some(-3));
        check("", None, None);
        check(".", None, None);
        check("1..2", None, None);
        check("12x", None, None);
        check("1e99999999999", None, None);
    }
}
