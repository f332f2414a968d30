//! Resource quantities as the node needs them: whole units and thousandths, rounded up.

/// The amount in thousandths, rounded up; None for text that is no quantity or overflows.
#[must_use]
pub fn milli(text: &str) -> Option<i64> {
    scaled(text, 1000)
}

/// The amount in whole units, rounded up; None for text that is no quantity or overflows.
#[must_use]
pub fn value(text: &str) -> Option<i64> {
    scaled(text, 1)
}

fn scaled(text: &str, unit: i128) -> Option<i64> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 18 || whole.len() > 20 || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let negative = whole.starts_with('-');
    let whole = whole.trim_start_matches(['+', '-']);
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let mut denominator: i128 = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let mut numerator: i128 = digits.checked_mul(unit)?;
    match suffix {
        "" => {}
        "n" => denominator = denominator.checked_mul(1_000_000_000)?,
        "u" => denominator = denominator.checked_mul(1_000_000)?,
        "m" => denominator = denominator.checked_mul(1000)?,
        "k" => numerator = numerator.checked_mul(1000)?,
        "M" => numerator = numerator.checked_mul(1_000_000)?,
        "G" => numerator = numerator.checked_mul(1_000_000_000)?,
        "T" => numerator = numerator.checked_mul(1_000_000_000_000)?,
        "P" => numerator = numerator.checked_mul(1_000_000_000_000_000)?,
        "E" => numerator = numerator.checked_mul(1_000_000_000_000_000_000)?,
        "Ki" => numerator = numerator.checked_mul(1 << 10)?,
        "Mi" => numerator = numerator.checked_mul(1 << 20)?,
        "Gi" => numerator = numerator.checked_mul(1 << 30)?,
        "Ti" => numerator = numerator.checked_mul(1 << 40)?,
        "Pi" => numerator = numerator.checked_mul(1 << 50)?,
        "Ei" => numerator = numerator.checked_mul(1 << 60)?,
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let factor = 10_i128.checked_pow(power.unsigned_abs())?;
            if power >= 0 {
                numerator = numerator.checked_mul(factor)?;
            } else {
                denominator = denominator.checked_mul(factor)?;
            }
        }
    }
    let rounded = numerator.checked_add(denominator - 1)?.checked_div(denominator)?;
    let rounded = i64::try_from(rounded).ok()?;
    Some(if negative { -rounded } else { rounded })
}

#[cfg(test)]
mod tests {
    use super::{milli, value};

    #[test]
    fn quantities_round_up_and_refuse_nonsense() {
        let cases = [
            ("1", Some(1000), Some(1)),
            ("100m", Some(100), Some(1)),
            ("1.5", Some(1500), Some(2)),
            ("2Gi", Some(2_147_483_648_000), Some(2_147_483_648)),
            ("1e3", Some(1_000_000), Some(1000)),
            ("128974848", Some(128_974_848_000), Some(128_974_848)),
            ("1E", None, Some(1_000_000_000_000_000_000)),
            ("", None, None),
            ("abc", None, None),
            ("99999999999999999999E", None, None),
        ];
        for (text, thousandths, units) in cases {
            assert_eq!(milli(text), thousandths, "{text} in thousandths");
            assert_eq!(value(text), units, "{text} in units");
        }
    }
}
