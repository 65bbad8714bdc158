//! The Python that runs programs of the tests which need packages: `MOBILITY_PYTHON`, the environment that
//! `packaging/install-build-deps.sh` makes, or the system's, whichever has them.
//!
//! Deliberately not here: what the programs are asked.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// A Python with the packages that a program needs; the program says so itself when it is run with `packages`.
///
/// # Errors
/// When there is none.
pub fn with_packages_of(program: &Path) -> Result<PathBuf, String> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python/bin/python3");
    let named = env::var_os("MOBILITY_PYTHON").map(PathBuf::from);
    let mut candidates = named.into_iter().chain([ours, PathBuf::from("python3")]);
    let works = |python: &PathBuf| {
        let tried = Command::new(python).arg("-B").arg(program).arg("packages").output();
        tried.is_ok_and(|output| output.status.success())
    };
    candidates.find(works).ok_or_else(|| {
        let program = program.file_name().unwrap_or_default().to_string_lossy();
        format!("no python3 has the packages of {program}; run packaging/install-build-deps.sh")
    })
}
