//! The project's programs, built as the tests themselves are.
//!
//! Tests of another package are not told by cargo where a package's binary is, so it is built here, unless `MOBILITY_PROGRAMS`
//! names a directory of built ones, as `tests/run` does. Deliberately not here: how the programs are used.
#![allow(clippy::unwrap_used, reason = "for tests, which fail by panicking")]

use std::{env, path::PathBuf, process::Command, sync::LazyLock};

/// Where the program `name` is.
///
/// # Panics
/// When it does not build.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| match env::var_os("MOBILITY_PROGRAMS") {
        Some(dir) => dir.into(),
        None => build(),
    });
    BUILT.join(name)
}

/// Makes sure that the programs are of the present source, and returns where they are.
fn build() -> PathBuf {
    // <target>/<profile>/deps/<test>
    let test = env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let target = profile.parent().unwrap();
    let profile_name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo says to a test about itself makes build scripts of dependencies run again, and these be built anew.
    for (name, _) in env::vars_os() {
        let said =
            name.to_str().is_some_and(|n| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_"));
        if said {
            cargo.env_remove(name);
        }
    }
    let built = cargo
        // All at once, as the whole project is built: a package by itself has other features, and would be built anew.
        .args(["build", "--quiet", "--workspace", "--bins", "--profile", profile_name])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(built.success(), "the programs do not build");
    profile.to_owned()
}
