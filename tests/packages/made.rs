//! The packages of this source: made once, and looked into.
//!
//! Deliberately not here: what should be in them.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use mobility_tests::{binary::program, requirement::Requirement, scratch::run};

/// One of the two programs, with everything that is named after it.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    /// As `packaging/build.sh` calls it.
    pub(crate) what: &'static str,
    /// As its package, its program and its unit are called.
    pub(crate) name: &'static str,
}

pub(crate) const AGENT: Product = Product { what: "agent", name: "mobility-agent" };
pub(crate) const SERVICE: Product = Product { what: "service", name: "recovery-service" };
pub(crate) const PRODUCTS: [Product; 2] = [AGENT, SERVICE];

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Whether what makes and judges packages is there.
#[track_caller]
pub(crate) fn can_make() -> bool {
    let tools = root().join("target/package-tools/bin");
    let own = ["cargo-deb", "cargo-generate-rpm"].iter().find(|name| !tools.join(name).exists());
    let theirs = ["lintian", "rpmlint", "rpm", "dpkg-deb", "strip", "objdump", "systemd-analyze"];
    let theirs = theirs
        .iter()
        .find(|name| Command::new("which").arg(name).output().is_ok_and(|o| !o.status.success()));
    let found = match own.or(theirs) {
        None => Ok(()),
        Some(lack) => Err(format!("there is no {lack}: run packaging/install-package-tools.sh")),
    };
    Requirement::Packaging.or_skip(found).is_some()
}

/// Where the programs are that packages are made of.
pub(crate) fn programs() -> PathBuf {
    match env::var_os("MOBILITY_RELEASE_PROGRAMS") {
        Some(dir) => dir.into(),
        None => program("mobility-agent").parent().unwrap().to_owned(),
    }
}

/// Makes a package in `dir`.
pub(crate) fn make(kind: &str, product: Product, dir: &Path, more: &[&str]) -> PathBuf {
    let (programs, out) = (programs(), dir.to_str().unwrap().to_owned());
    let mut arguments =
        vec![kind, product.what, "--quick", "--out", &out, "--programs", programs.to_str().unwrap()];
    arguments.extend(more);
    let said = run(root().join("packaging/build.sh").to_str().unwrap(), &arguments);
    let made = said.rsplit_once("made ").unwrap_or_else(|| panic!("{said}")).1.trim();
    PathBuf::from(made)
}

/// Packages by kind and program.
type Packages = BTreeMap<(&'static str, &'static str), PathBuf>;

static MADE: LazyLock<(tempfile::TempDir, Packages)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let all = ["deb", "rpm"].into_iter().flat_map(|kind| PRODUCTS.map(|product| (kind, product)));
    let made =
        all.map(|(kind, product)| ((kind, product.name), make(kind, product, dir.path(), &[]))).collect();
    (dir, made)
});

/// The package of this version.
pub(crate) fn package(kind: &'static str, product: Product) -> &'static Path {
    &MADE.1[&(kind, product.name)]
}

/// What a package holds, unpacked.
pub(crate) fn unpacked(product: Product) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    run("dpkg-deb", &["-x", package("deb", product).to_str().unwrap(), dir.path().to_str().unwrap()]);
    dir
}

/// The commands that a program's help names, each as the words to call it by.
pub(crate) fn commands(program: &Path) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut waiting = vec![Vec::<String>::new()];
    while let Some(words) = waiting.pop() {
        let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = run(program.to_str().unwrap(), &arguments);
        let listed =
            help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap());
        let names =
            listed.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
        for name in names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
            let below = [words.clone(), vec![name.to_owned()]].concat();
            waiting.push(below.clone());
            found.push(below);
        }
    }
    assert!(found.len() > 5, "the help of {} was not understood", program.display());
    found
}

/// The text of a file of the repository.
pub(crate) fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|err| panic!("{path}: {err}"))
}
