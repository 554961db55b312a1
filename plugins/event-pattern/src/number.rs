//! Numbers compared by value: 300, 300.0 and 3e2 are one number, and integers of up to thirty digits are exact.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

/// Integers below this are kept exactly; nothing above is.
const INTEGER_MAX: f64 = (1u128 << 100) as f64;
const INTEGER_DIGITS_MAX: usize = 30;

/// A JSON number. There is one form for each value, so that equality and hashes agree.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    /// An integer below 2¹⁰⁰.
    Integer(i128),
    /// Anything else: with a fraction, or too large. Never NaN; infinite for what a double cannot hold.
    Float(f64),
}

impl Number {
    /// From the text of a JSON number, whose grammar the caller has checked.
    pub(crate) fn from_json(text: &str) -> Self {
        if let Some(small) = small_integer(text.as_bytes()) {
            return Self::Integer(i128::from(small));
        }
        let is_integer = !text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E'));
        let digits = text.strip_prefix('-').unwrap_or(text);
        if is_integer
            && digits.len() <= INTEGER_DIGITS_MAX
            && let Ok(integer) = text.parse()
        {
            return Self::Integer(integer);
        }
        Self::from_f64(text.parse().unwrap_or(f64::INFINITY))
    }

    fn from_f64(float: f64) -> Self {
        if float.fract() == 0.0 && float.abs() < INTEGER_MAX {
            Self::Integer(float as i128)
        } else {
            Self::Float(float)
        }
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (*self, *other) {
            (Self::Integer(left), Self::Integer(right)) => left.cmp(&right),
            (Self::Float(left), Self::Float(right)) => left.total_cmp(&right),
            (Self::Integer(left), Self::Float(right)) => integer_to_float(left, right),
            (Self::Float(left), Self::Integer(right)) => integer_to_float(right, left).reverse(),
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

impl Hash for Number {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match *self {
            Self::Integer(integer) => state.write_u64(integer as u64 ^ (integer >> 64) as u64),
            Self::Float(float) => state.write_u64(float.to_bits()),
        }
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

/// `float` is never an integer below [`INTEGER_MAX`], so the two are never equal.
fn integer_to_float(integer: i128, float: f64) -> Ordering {
    if float.abs() >= INTEGER_MAX {
        return if float > 0.0 {
            Ordering::Less
        } else {
            Ordering::Greater
        };
    }
    if integer <= float.floor() as i128 {
        Ordering::Less
    } else {
        Ordering::Greater
    }
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
        equal("0.1", "1e-1");
        equal("1e400", "1e500");
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
            "0",
            "0.5",
            "1",
            "9007199254740992",
            "9007199254740993",
            "18446744073709551615",
            "18446744073709551616",
            "100000000000000000000000000000",
            "100000000000000000000000000001",
            "1e35",
            "1e400",
        ];
        for (i, left) in sorted.iter().enumerate() {
            for (j, right) in sorted.iter().enumerate() {
                let order = Number::from_json(left).cmp(&Number::from_json(right));
                assert_eq!(order, i.cmp(&j), "{left} {right}");
            }
        }
    }
}
