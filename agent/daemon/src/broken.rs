//! Cuts that are wrong on purpose, so that tests can show that they would notice.
//!
//! This exists for tests only: `tests/root/truth` runs an agent with the variable `MOBILITY_BROKEN` and demands that wrong
//! recovery points are found. Release builds have none of it: there [`is`] is false before anything is looked at, and the
//! variable is not read. Deliberately not here: what each of them breaks; that is one line where it would be right.

use std::sync::LazyLock;

/// A way to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// `no-validation`: whatever was read is the point.
    NoValidation,
    /// `wrong-bitmap`: after the read only completions are looked at, not what was issued.
    WrongBitmap,
    /// `drain-after-read`: the marks are taken out of the bitmaps once more after the read, and forgotten.
    DrainAfterRead,
}

const NAMES: [(&str, Broken); 3] = [
    ("no-validation", Broken::NoValidation),
    ("wrong-bitmap", Broken::WrongBitmap),
    ("drain-after-read", Broken::DrainAfterRead),
];

static CHOSEN: LazyLock<Option<Broken>> = LazyLock::new(|| {
    let name = std::env::var("MOBILITY_BROKEN").ok()?;
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, broken)| *broken)
});

/// Whether the agent is to be wrong in this way.
pub(crate) fn is(broken: Broken) -> bool {
    cfg!(debug_assertions) && *CHOSEN == Some(broken)
}
