//! Numbers compared by value: 300, 300.0 and 3e2 are one number, and no two that differ within their first 38 digits are.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

/// Significant digits that count; what follows them is cut off.
const DIGITS_MAX: u32 = 38;
/// Exponents beyond it, up or down, count as this one.
const EXPONENT_MAX: i64 = 1_000_000_000;
/// Powers of ten by which two numbers are brought to one exponent without looking at their size.
const SMALL_POWER_MAX: u32 = 18;
/// The powers of ten up to that one.
const SMALL_POWERS: [i64; SMALL_POWER_MAX as usize + 1] = {
    let mut powers = [1; SMALL_POWER_MAX as usize + 1];
    let mut exponent = 1;
    while exponent < powers.len() {
        powers[exponent] = 10 * powers[exponent - 1];
        exponent += 1;
    }
    powers
};

/// A JSON number. There is one form for each value, so that equality and hashes agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    /// An integer of at most 38 digits.
    Integer(i128),
    /// Anything else: `digits` × 10 to the `exponent`. The digits neither end with a zero nor are more than 38.
    Decimal { digits: i128, exponent: i32 },
}

impl Number {
    /// From the text of a JSON number, whose grammar the caller has checked.
    pub(crate) fn from_json(text: &str) -> Self {
        match small_integer(text.as_bytes()) {
            Some(small) => Self::Integer(i128::from(small)),
            None => Self::decimal(text.as_bytes()),
        }
    }

    fn decimal(text: &[u8]) -> Self {
        let (negative, text) = match text {
            [b'-', text @ ..] => (true, text),
            text => (false, text),
        };
        let end = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
        let (mantissa, exponent) = text.split_at(end.unwrap_or(text.len()));
        let point = mantissa.iter().position(|byte| *byte == b'.');
        let digits = mantissa.iter().filter(|byte| **byte != b'.');
        let Some(significant) = Significant::of(digits) else {
            return Self::Integer(0);
        };
        let whole = point.unwrap_or(mantissa.len()) as i64;
        let exponent = exponent_of(exponent) + whole - 1 - significant.last as i64;
        let exponent = exponent.clamp(-EXPONENT_MAX, EXPONENT_MAX) as i32;
        let sign = if negative { -1 } else { 1 };
        match u32::try_from(exponent) {
            Ok(zeros) if significant.count.saturating_add(zeros) <= DIGITS_MAX => {
                Self::Integer(sign * significant.value * power_of_ten(zeros))
            }
            _ => Self::Decimal {
                digits: sign * significant.value,
                exponent,
            },
        }
    }

    fn parts(self) -> (i128, i32) {
        match self {
            Self::Integer(digits) => (digits, 0),
            Self::Decimal { digits, exponent } => (digits, exponent),
        }
    }
}

/// The digits of a number from the first to the last that is no zero, as far as they count.
struct Significant {
    /// Below 10³⁸.
    value: i128,
    count: u32,
    /// Which of all digits the last of them is.
    last: usize,
}

impl Significant {
    fn of<'a>(digits: impl Iterator<Item = &'a u8>) -> Option<Self> {
        let mut found: Option<Self> = None;
        for (place, digit) in digits.enumerate() {
            let digit = i128::from(digit - b'0');
            if digit == 0 {
                continue;
            }
            let Some(before) = &mut found else {
                found = Some(Self {
                    value: digit,
                    count: 1,
                    last: place,
                });
                continue;
            };
            // The zeros between, and this one.
            let more = u32::try_from(place - before.last).unwrap_or(u32::MAX);
            if before.count.saturating_add(more) > DIGITS_MAX {
                break;
            }
            before.value = before.value * power_of_ten(more) + digit;
            before.count += more;
            before.last = place;
        }
        found
    }
}

/// Of `e10`, `E-3`, `e+07` or nothing.
fn exponent_of(text: &[u8]) -> i64 {
    let (sign, digits) = match text {
        [] => return 0,
        [_, b'-', digits @ ..] => (-1, digits),
        [_, b'+', digits @ ..] | [_, digits @ ..] => (1, digits),
    };
    let value = digits.iter().fold(0i64, |value, digit| {
        (value * 10 + i64::from(digit - b'0')).min(2 * EXPONENT_MAX)
    });
    sign * value
}

/// Of at most 38.
fn power_of_ten(exponent: u32) -> i128 {
    match SMALL_POWERS.get(exponent as usize) {
        Some(power) => i128::from(*power),
        None => 10i128.pow(exponent),
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        if let (Self::Integer(left), Self::Integer(right)) = (self, other) {
            return left.cmp(right);
        }
        let (left, right) = (self.parts(), other.parts());
        match left.1 >= right.1 {
            true => of_higher_exponent(left, right),
            false => of_higher_exponent(right, left).reverse(),
        }
    }
}

/// Compares two numbers of which the first has an exponent that is not lower.
fn of_higher_exponent(high: (i128, i32), low: (i128, i32)) -> Ordering {
    let apart = high.1.abs_diff(low.1);
    // The usual case: the product is below 2⁶³ × 10¹⁸, which fits.
    if apart <= SMALL_POWER_MAX && i64::try_from(high.0).is_ok() {
        return (high.0 * power_of_ten(apart)).cmp(&low.0);
    }
    let sign = high.0.signum();
    if sign != low.0.signum() || sign == 0 {
        return sign.cmp(&low.0.signum());
    }
    let (high_size, low_size) = (high.0.unsigned_abs(), low.0.unsigned_abs());
    // Neither is zero.
    let (high_count, low_count) = (high_size.ilog10(), low_size.ilog10());
    let first_places = |count: u32, exponent: i32| i64::from(count) + i64::from(exponent);
    let places = first_places(high_count, high.1).cmp(&first_places(low_count, low.1));
    // Both with as many digits as the longer one has, 38 at most.
    let scaled = |size: u128, count: u32| size * 10u128.pow(high_count.max(low_count) - count);
    let sizes =
        places.then_with(|| scaled(high_size, high_count).cmp(&scaled(low_size, low_count)));
    if sign < 0 { sizes.reverse() } else { sizes }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Number {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (digits, exponent) = self.parts();
        // Not all of it goes in: equality looks at the rest.
        let digits = digits as u64 ^ (digits >> 64) as u64;
        state.write_u64(digits ^ (exponent as u64).rotate_left(32));
    }
}

/// Up to 18 digits, the usual case, without the general parser.
fn small_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let mut value = 0i64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(digit - b'0');
    }
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_equal_however_they_are_written() {
        let equal = |left: &str, right: &str| {
            assert_eq!(
                Number::from_json(left),
                Number::from_json(right),
                "{left} {right}"
            );
        };
        equal("300", "300.0");
        equal("300", "3.0e2");
        equal("300", "3000E-1");
        equal("0", "-0");
        equal("0", "-0.0");
        equal("0", "0e7");
        equal("0.1", "1e-1");
        equal("0.1", "0.100");
        equal("0.1", "0.0001e+3");
        equal("-12.50", "-1.25e01");
        equal("1146097832943288321", "1146097832943288321.0");
        equal(
            "123456789012345678901234567890",
            "123456789012345678901234567890.0",
        );
        equal("1e400", "10e399");
        equal("1e9999999999", "1e99999999999999999999");
        let long = "0.12345678901234567890123456789012345678";
        equal(long, &format!("{long}9"));
    }

    #[test]
    fn order_holds_across_forms() {
        let sorted = [
            "-1e400",
            "-1e40",
            "-100000000000000000000000000001",
            "-100000000000000000000000000000",
            "-99999999999999999999",
            "-2.5",
            "-2",
            "-1.5",
            "-1e-400",
            "0",
            "1e-1000000000",
            "1e-400",
            "0.12345678901234567891",
            "0.12345678901234567892",
            "0.5",
            "1",
            "37.807807921694",
            "37.807807921694092",
            "4999999999.999998",
            "4999999999.999999",
            "9007199254740992",
            "9007199254740992.5",
            "9007199254740993",
            "1146097832943288320",
            "1146097832943288321.0",
            "18446744073709551615",
            "18446744073709551616",
            "100000000000000000000000000000",
            "100000000000000000000000000000.5",
            "100000000000000000000000000001",
            "1e35",
            "99999999999999999999999999999999999999",
            "1e38",
            "1.1e38",
            "123456789012345678901234567890123456780",
            "1e400",
            "1e401",
        ];
        for (i, left) in sorted.iter().enumerate() {
            for (j, right) in sorted.iter().enumerate() {
                let order = Number::from_json(left).cmp(&Number::from_json(right));
                assert_eq!(order, i.cmp(&j), "{left} {right}");
            }
        }
    }

    // Whatever is a double has its shortest digits as text, so that two are ordered as these are.
    #[test]
    fn doubles_are_ordered_as_doubles() {
        let mut bits = 0x9E37_79B9_7F4A_7C15u64;
        let mut double = || loop {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            // Of all sizes, and some that are near each other.
            let value = match bits % 3 {
                0 => f64::from_bits(bits),
                1 => (bits % 2_001) as f64 / 8.0 - 125.0,
                _ => 1e15 + (bits % 64) as f64 / 8.0,
            };
            if value.is_finite() {
                return value;
            }
        };
        for _ in 0..20_000 {
            let (left, right) = (double(), double());
            for text in [
                |value: f64| format!("{value}"),
                |value: f64| format!("{value:e}"),
            ] {
                let cut = |value: f64| Number::from_json(&text(value));
                let expected = left.partial_cmp(&right).expect("no NaN");
                assert_eq!(cut(left).cmp(&cut(right)), expected, "{left} {right}");
                assert_eq!(cut(left), Number::from_json(&format!("{left:e}")));
            }
        }
    }
}
