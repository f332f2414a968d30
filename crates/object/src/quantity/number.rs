//! The number behind a quantity: nano-units in 128 bits, capped at 2^63-1 whole units as upstream documents.

use std::cmp::Ordering;
use std::fmt;

/// Nano-units of one.
pub(super) const ONE: i128 = 1_000_000_000;
/// The largest amount, in nano-units: no quantity is above 2^63-1.
pub(super) const NANO_MAX: i128 = i64::MAX as i128 * ONE;
/// The longest text that is read, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 256;

/// Which suffixes the number is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Ki, Mi, Gi, ...
    BinarySi,
    /// n, u, m, k, M, G, ...
    DecimalSi,
    /// e3, e6, ...
    DecimalExponent,
}

/// A number with upstream's notation; equal and ordered by its amount alone.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    pub(super) nano: i128,
    pub(super) format: Format,
}

/// Why a text is no quantity; upstream's sentences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not of the general form.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The suffix is none.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// The number is none.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

/// A quantity's text taken apart.
pub(super) struct Parts<'a> {
    pub(super) negative: bool,
    /// Digits before the point, without leading zeros.
    pub(super) whole: &'a str,
    /// Digits after the point.
    pub(super) fraction: &'a str,
    pub(super) format: Format,
    /// The power of ten, or of two for [`Format::BinarySi`].
    pub(super) exponent: i32,
}

impl<'a> Parts<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, ParseError> {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX {
            return Err(ParseError::Format);
        }
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let digits = |text: &str| text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
        let (whole, rest) = rest.split_at(digits(rest));
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(digits(rest)),
            None => ("", rest),
        };
        let letters = suffix.bytes().position(|byte| !b"eEinumkKMGTP".contains(&byte)).unwrap_or(suffix.len());
        let sign_and_digits = &suffix[letters..];
        let tail = sign_and_digits.strip_prefix(['+', '-']).unwrap_or(sign_and_digits);
        if digits(tail) != tail.len() {
            return Err(ParseError::Format);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(if suffix.is_empty() { ParseError::Numeric } else { ParseError::Format });
        }
        let (format, exponent) = suffix_of(suffix)?;
        Ok(Parts { negative, whole: whole.trim_start_matches('0'), fraction, format, exponent })
    }
}

fn suffix_of(suffix: &str) -> Result<(Format, i32), ParseError> {
    use Format::{BinarySi, DecimalExponent, DecimalSi};
    Ok(match suffix {
        "n" => (DecimalSi, -9),
        "u" => (DecimalSi, -6),
        "m" => (DecimalSi, -3),
        "" => (DecimalSi, 0),
        "k" => (DecimalSi, 3),
        "M" => (DecimalSi, 6),
        "G" => (DecimalSi, 9),
        "T" => (DecimalSi, 12),
        "P" => (DecimalSi, 15),
        "E" => (DecimalSi, 18),
        "Ki" => (BinarySi, 10),
        "Mi" => (BinarySi, 20),
        "Gi" => (BinarySi, 30),
        "Ti" => (BinarySi, 40),
        "Pi" => (BinarySi, 50),
        "Ei" => (BinarySi, 60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseError::Suffix)?;
            let exponent: i64 = exponent.parse().map_err(|_| ParseError::Suffix)?;
            // Beyond these every number is zero or capped.
            (DecimalExponent, i32::try_from(exponent.clamp(-1_000, 1_000)).map_err(|_| ParseError::Suffix)?)
        }
    })
}

/// `amount` divided by `by`, rounded away from zero.
pub(super) fn divide_away(amount: i128, by: i128) -> i128 {
    let quotient = amount / by;
    if amount % by == 0 { quotient } else { quotient + amount.signum() }
}

impl Quantity {
    /// Zero.
    pub const ZERO: Quantity = Quantity { nano: 0, format: Format::DecimalSi };

    /// Reads a quantity. Amounts smaller than a nano-unit are rounded away from zero, amounts above 2^63-1 are capped.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let parts = Parts::read(text)?;
        let nano = magnitude(&parts);
        Ok(Quantity { nano: if parts.negative { -nano } else { nano }, format: parts.format })
    }

    /// Reads a quantity out of a value tree, where a number is accepted as well.
    pub fn from_value(value: &crate::Value) -> Result<Self, ParseError> {
        match value {
            crate::Value::String(text) => Quantity::parse(text.trim()),
            crate::Value::Int(number) => Ok(Quantity::from_units(*number, Format::DecimalSi)),
            crate::Value::Float(number) => Quantity::parse(&number.to_string()),
            _ => Err(ParseError::Format),
        }
    }

    /// So many whole units.
    #[must_use]
    pub fn from_units(units: i64, format: Format) -> Self {
        Quantity { nano: i128::from(units) * ONE, format }
    }

    /// So many thousandths.
    #[must_use]
    pub fn from_milli(milli: i64) -> Self {
        Quantity { nano: i128::from(milli) * (ONE / 1_000), format: Format::DecimalSi }
    }

    /// The notation.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whole units, rounded away from zero.
    #[must_use]
    pub fn value(&self) -> i64 {
        saturate(divide_away(self.nano, ONE))
    }

    /// Thousandths, rounded away from zero, as many as fit.
    #[must_use]
    pub fn milli_value(&self) -> i64 {
        saturate(divide_away(self.nano, ONE / 1_000))
    }

    /// The amount rounded up to whole thousandths, as upstream's defaulting does to resource lists.
    #[must_use]
    pub fn round_up_to_milli(self) -> Self {
        Quantity { nano: divide_away(self.nano, ONE / 1_000) * (ONE / 1_000), ..self }
    }

    /// True for zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// -1, 0 or 1.
    #[must_use]
    pub fn signum(&self) -> i32 {
        match self.nano.cmp(&0) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }
    }
}

fn saturate(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

/// The absolute amount in nano-units, rounded up and capped.
fn magnitude(parts: &Parts<'_>) -> i128 {
    let digits = parts.whole.bytes().chain(parts.fraction.bytes()).map(|byte| i128::from(byte - b'0'));
    let (multiplier, power) = match parts.format {
        Format::BinarySi => (1_i128 << parts.exponent, 9),
        _ => (1, 9 + parts.exponent),
    };
    // The number is digits * multiplier * 10^shift nano-units.
    let shift = power - parts.fraction.len() as i32;
    let skip = if shift < 0 { shift.unsigned_abs() as usize } else { 0 };
    let count = parts.whole.len() + parts.fraction.len();
    if multiplier == 1 {
        // Digits beyond a nano-unit only round.
        let kept = count.saturating_sub(skip);
        let mut amount = 0_i128;
        let mut more = false;
        for (at, digit) in digits.enumerate() {
            if at < kept {
                amount = (amount * 10 + digit).min(NANO_MAX + 1);
            } else {
                more |= digit != 0;
            }
        }
        amount += i128::from(more);
        for _ in 0..shift.max(0) {
            if amount == 0 || amount > NANO_MAX {
                break;
            }
            amount *= 10;
        }
        return amount.min(NANO_MAX);
    }
    // Binary suffixes: whole and fraction apart, so that 60 bits of multiplier and the digits stay within 128 bits.
    let whole = parts.whole.bytes().fold(0_i128, |sum, byte| (sum * 10 + i128::from(byte - b'0')).min(NANO_MAX));
    let whole = whole.min(i128::from(i64::MAX)).saturating_mul(multiplier).saturating_mul(ONE).min(NANO_MAX);
    let mut fraction = 0_i128;
    let mut scale = 1_i128;
    let mut more = false;
    for byte in parts.fraction.bytes() {
        if scale < 1_000_000_000 {
            fraction = fraction * 10 + i128::from(byte - b'0');
            scale *= 10;
        } else {
            more |= byte != b'0';
        }
    }
    // At most 10^9 * 2^60 * 10^9 / scale; dividing first where scale divides ONE, which it always does.
    let fraction = fraction * (ONE / scale) * multiplier + i128::from(more);
    (whole + fraction).min(NANO_MAX)
}

/// The sum, capped; zero takes the other's notation.
impl std::ops::Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Quantity) -> Quantity {
        let format = if self.nano == 0 { other.format } else { self.format };
        Quantity { nano: (self.nano + other.nano).clamp(-NANO_MAX, NANO_MAX), format }
    }
}

/// The difference, capped; zero takes the other's notation.
impl std::ops::Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Quantity) -> Quantity {
        self + Quantity { nano: -other.nano, ..other }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}
impl std::hash::Hash for Quantity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.nano.hash(state);
    }
}
impl std::str::FromStr for Quantity {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Quantity::parse(text)
    }
}
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}
