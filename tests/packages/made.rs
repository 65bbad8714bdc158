//! The packages of this source: made once, and looked into.
//!
//! Deliberately not here: what should be in them.

use std::{
    env,
    fs::{self, File},
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
    let output = Command::new(root().join("packaging/build.sh"))
        .args(arguments)
        // Not the last commit's: what was made before it is as good.
        .env("SOURCE_DATE_EPOCH", "1790000000")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let made = said.rsplit_once("made ").unwrap_or_else(|| panic!("{said}")).1.trim();
    PathBuf::from(made)
}

/// The version that packages are upgraded to.
pub(crate) const NEWER: &str = "99.0.0";

/// Where the packages are: made once for all tests, which may be processes of their own, and again when anything that they are
/// made of has changed.
static MADE: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = root().join("target/test-packages");
    fs::create_dir_all(&dir).unwrap();
    let lock = File::create(dir.join("lock")).unwrap();
    lock.lock().unwrap();
    let (made, key) = (dir.join("made"), made_of());
    if fs::read_to_string(made.join("key")).ok().as_ref() != Some(&key) {
        let _ = fs::remove_dir_all(&made);
        fs::create_dir_all(&made).unwrap();
        for kind in ["deb", "rpm"] {
            PRODUCTS.iter().for_each(|product| drop(make(kind, *product, &made, &[])));
            make(kind, AGENT, &made, &["--version", NEWER]);
        }
        fs::write(made.join("key"), key).unwrap();
    }
    made
});

/// Another word for each content of what packages are made of.
fn made_of() -> String {
    let mut files: Vec<_> = PRODUCTS.iter().map(|product| programs().join(product.name)).collect();
    let mut folders = vec![root().join("packaging"), root().join("systemd")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let into = if entry.file_type().unwrap().is_dir() { &mut folders } else { &mut files };
            into.push(entry.path());
        }
    }
    let others = [
        "docs/CHANGELOG.md",
        "docs/EXIT_CODES.md",
        "Cargo.lock",
        "agent/daemon/Cargo.toml",
        "agent/recovery/Cargo.toml",
    ];
    files.extend(others.map(|file| root().join(file)));
    files.sort();
    let mut hasher = blake3::Hasher::new();
    for file in files {
        hasher.update(file.as_os_str().as_encoded_bytes());
        hasher.update_reader(File::open(file).unwrap()).unwrap();
    }
    hasher.finalize().to_string()
}

/// The package of this version.
pub(crate) fn package(kind: &str, product: Product) -> PathBuf {
    package_of(env!("CARGO_PKG_VERSION"), kind, product)
}

/// The package of some version.
pub(crate) fn package_of(version: &str, kind: &str, product: Product) -> PathBuf {
    let between = if kind == "deb" { '_' } else { '-' };
    let beginning = format!("{}{between}{version}-1", product.name);
    let names = fs::read_dir(&*MADE).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let name =
        names.filter(|name| name.starts_with(&beginning) && name.ends_with(&format!(".{kind}"))).last();
    MADE.join(name.unwrap_or_else(|| panic!("no {beginning} was made")))
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
