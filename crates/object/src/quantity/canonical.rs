//! The canonical text of a quantity: no fraction, the largest suffix without loss.

use super::number::{Format, NANO_MAX, ONE, ParseError, Parts, Quantity, divide_away};

const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// The text as the API stores it: `1024Mi` becomes `1Gi`, `0.5` becomes `500m`. As upstream does, a spelling whose
/// exponent is a multiple of three and that wastes no zeros is kept.
pub fn canonicalize(text: &str) -> Result<String, ParseError> {
    let parts = Parts::read(text)?;
    let quantity = Quantity::parse(text)?;
    let capped = quantity.nano.abs() == NANO_MAX;
    Ok(if keeps_spelling(&parts) && !capped { text.to_owned() } else { quantity.canonical() })
}

/// Upstream's fast path keeps the client's spelling under these conditions.
fn keeps_spelling(parts: &Parts<'_>) -> bool {
    let digits = parts.whole.len() + parts.fraction.len();
    let number = || format!("{}{}", parts.whole, parts.fraction);
    match parts.format {
        Format::BinarySi => {
            // 2^60 has about 18 digits.
            let precision = 15 - parts.whole.len() as i32 - parts.exponent * 3 / 10 - 1;
            parts.fraction.is_empty() && precision >= 0 && number().parse::<i64>().is_ok_and(|number| number & 7 != 0)
        }
        Format::DecimalSi | Format::DecimalExponent => {
            let scale = parts.exponent - parts.fraction.len() as i32;
            let number = number();
            digits > 0
                && digits <= 18
                && (-9..=18).contains(&scale)
                && scale % 3 == 0
                && !number.starts_with('0')
                && !number.ends_with("000")
        }
    }
}

impl Quantity {
    /// The canonical text.
    #[must_use]
    pub fn canonical(&self) -> String {
        if self.nano == 0 {
            return "0".to_owned();
        }
        match self.format {
            Format::BinarySi if self.nano.abs() >= 1024 * ONE && self.nano % ONE == 0 => {
                let mut units = divide_away(self.nano, ONE);
                let mut times = 0;
                while units % 1024 == 0 && times < 6 {
                    units /= 1024;
                    times += 1;
                }
                format!("{units}{}", BINARY[times])
            }
            // A binary number below 1024, or one with a fraction, keeps its precision in decimal notation.
            Format::BinarySi | Format::DecimalSi => {
                let (mantissa, thousands) = decimal(self.nano, 9);
                format!("{mantissa}{}", DECIMAL[thousands])
            }
            Format::DecimalExponent => {
                let (mantissa, thousands) = decimal(self.nano, usize::MAX);
                match thousands as i32 * 3 - 9 {
                    0 => mantissa.to_string(),
                    exponent => format!("{mantissa}e{exponent}"),
                }
            }
        }
    }
}

/// Mantissa and the number of thousands taken out of nano-units.
fn decimal(nano: i128, thousands_max: usize) -> (i128, usize) {
    let (mut mantissa, mut thousands) = (nano, 0);
    while mantissa % 1_000 == 0 && thousands < thousands_max {
        mantissa /= 1_000;
        thousands += 1;
    }
    (mantissa, thousands)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::super::{ParseError, Quantity, canonicalize};
    use proptest::prelude::*;

    #[test]
    fn text_becomes_canonical() {
        for (text, expected) in [
            ("0", "0"),
            ("0.0", "0"),
            ("00", "0"),
            ("1", "1"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("1e2", "100"),
            ("1000e0", "1e3"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1000000", "1M"),
            ("1500m", "1500m"),
            ("2000m", "2"),
            ("100m", "100m"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            ("1.5n", "2n"),
            ("1000n", "1u"),
            ("-1024Ki", "-1Mi"),
            ("1E", "1E"),
            ("12E", "9223372036854775807"),
            ("8Ei", "9223372036854775807"),
            ("1e-3", "1e-3"),
            ("0.001e0", "1e-3"),
            ("10e-4", "1e-3"),
            ("4Gi", "4Gi"),
            ("8Gi", "8Gi"),
            ("0.125Ki", "128"),
        ] {
            assert_eq!(canonicalize(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for (text, expected) in [
            ("", ParseError::Format),
            ("abc", ParseError::Format),
            ("-", ParseError::Numeric),
            (".", ParseError::Numeric),
            ("1.2.3", ParseError::Format),
            ("1Kib", ParseError::Format),
            ("1ki", ParseError::Suffix),
            ("1e", ParseError::Suffix),
            ("1mi", ParseError::Suffix),
            ("1m3", ParseError::Suffix),
            (" 1", ParseError::Format),
            ("1 ", ParseError::Format),
        ] {
            assert_eq!(canonicalize(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn amounts_compare_and_add_whatever_their_notation() {
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!(quantity("1Ki"), quantity("1024"));
        assert!(quantity("999m") < quantity("1"));
        assert_eq!(quantity("0.0001").milli_value(), 1);
        assert_eq!(quantity("-0.0001").milli_value(), -1);
        assert_eq!(quantity("1.1").value(), 2);
        assert_eq!(quantity("1500m").value(), 2);
        assert_eq!(quantity("9E").milli_value(), i64::MAX);
        assert_eq!((quantity("1Gi") + quantity("1024Mi")).to_string(), "2Gi");
        assert_eq!((quantity("100m") + quantity("900m")).to_string(), "1");
        assert_eq!((quantity("1") - quantity("1500m")).to_string(), "-500m");
        assert_eq!((quantity("9E") + quantity("9E")).value(), i64::MAX);
        assert_eq!(quantity("0.0000001").round_up_to_milli().to_string(), "1m");
    }

    proptest! {
        #[test]
        fn canonical_text_keeps_the_amount(text in "[+-]?[0-9]{0,20}(\\.[0-9]{0,12})?([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?") {
            if let Ok(quantity) = Quantity::parse(&text) {
                let canonical = quantity.canonical();
                prop_assert_eq!(Quantity::parse(&canonical).unwrap(), quantity, "{} {}", text, canonical);
                prop_assert_eq!(Quantity::parse(&canonical).unwrap().canonical(), canonical);
                prop_assert_eq!(Quantity::parse(&canonicalize(&text).unwrap()).unwrap(), quantity);
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = canonicalize(&text);
        }
    }
}
