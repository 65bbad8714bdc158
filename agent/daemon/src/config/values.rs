//! Values with units, as people write them: `15s`, `2min`, `50MiB`.
//!
//! A number without a unit is refused: nobody can tell whether 10 was meant to be seconds. Deliberately not here: what
//! the values are for.

use std::time::Duration;

use mobility_format::ByteCount;
use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

/// Reads a time such as `15s`, `2min` or `1h 30min`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|err| format!("'{text}' is not a time such as 15s or 2min: {err}"))
}

/// Reads a size such as `512KiB` or `4GiB`.
pub(crate) fn parse_size(text: &str) -> Result<ByteCount, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.trim() {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(format!("'{text}' is not a size such as 512KiB, 64MiB or 4GiB")),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.map(ByteCount).ok_or_else(|| format!("'{text}' is not a size that can be expressed in bytes"))
}

/// For `#[serde(with = "...")]`: an optional time.
pub(super) mod duration {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        parse_duration(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
    }

    #[allow(clippy::ref_option, reason = "the signature is serde's")]
    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(&humantime::format_duration(*value)),
            None => serializer.serialize_none(),
        }
    }
}

/// For `#[serde(with = "...")]`: an optional size.
pub(super) mod size {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<ByteCount>, D::Error> {
        parse_size(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
    }

    #[allow(clippy::ref_option, reason = "the signature is serde's")]
    pub(crate) fn serialize<S: Serializer>(
        value: &Option<ByteCount>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let Some(ByteCount(bytes)) = *value else { return serializer.serialize_none() };
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB"), (0, "B")];
        let exact = units.into_iter().find(|(shift, _)| bytes % (1u64 << shift) == 0 && bytes >> shift > 0);
        let (shift, unit) = exact.unwrap_or((0, "B"));
        serializer.collect_str(&format_args!("{}{unit}", bytes >> shift))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_demanded() {
        assert_eq!(parse_size("64MiB"), Ok(ByteCount(64 << 20)));
        for bad in ["64", "64MB", "MiB", "-1MiB", "99999999999TiB", ""] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_duration("2min"), Ok(Duration::from_secs(120)));
        for bad in ["10", "", "s", "-1s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
