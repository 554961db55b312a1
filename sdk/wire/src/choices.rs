//! What settings with a few values have in common: each value has a name, is shown by it and read from it, and another name is refused
//! with those there are. Which choices there are stands with each of them.

use std::fmt;

/// A name that none of the values of a setting has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownName {
    /// What was to be chosen.
    pub what: &'static str,
    /// The names there are.
    pub names: &'static [&'static str],
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, names } = self;
        let (last, others) = names.split_last().unwrap_or((&"", &[]));
        write!(
            f,
            "no {what} has that name: say {} or {last}",
            others.join(", ")
        )
    }
}

impl std::error::Error for UnknownName {}

/// Gives the values of an enum their names: `ALL`, `name`, `Display` and `FromStr`.
macro_rules! choices {
    ($type:ident, $what:literal { $($value:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// All there are.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$value),+];

            /// What it is called in settings.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::choices::UnknownName;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                match name {
                    $($name => Ok(Self::$value),)+
                    _ => Err($crate::choices::UnknownName {
                        what: $what,
                        names: &[$($name),+],
                    }),
                }
            }
        }
    };
}

pub(crate) use choices;

#[cfg(test)]
mod tests {
    use crate::compact::Compression;

    #[test]
    fn a_value_is_read_from_its_name_and_another_is_refused_with_those_there_are() {
        for one in Compression::ALL {
            assert_eq!(one.to_string().parse(), Ok(one));
        }
        let names = Compression::ALL.map(Compression::name);
        assert_eq!(names, ["auto", "off", "always"]);
        let refused = "Auto".parse::<Compression>().unwrap_err().to_string();
        assert_eq!(
            refused,
            "no kind of compression has that name: say auto, off or always"
        );
    }
}
