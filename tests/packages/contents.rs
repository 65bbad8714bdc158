//! What is in the packages: every file with its mode, what is configuration, that it is valid, that everything is explained, and
//! that the same programs give the same package.
//!
//! Deliberately not here: what the scripts in them do (`root_install`).

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use mobility_tests::{binary::program, scratch::run};

use crate::made::{AGENT, PRODUCTS, Product, SERVICE, can_make, commands, make, package, programs, unpacked};

/// The files of a package with their modes. Directories are what the files need, and belong to everybody.
fn files(kind: &str, product: Product) -> BTreeMap<String, String> {
    let path = package(kind, product);
    let listed = match kind {
        "deb" => run("dpkg-deb", &["-c", path.to_str().unwrap()]),
        _ => run("rpm", &["-qlvp", path.to_str().unwrap()]),
    };
    let file = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let owner = if kind == "deb" { words[1].to_owned() } else { format!("{}/{}", words[2], words[3]) };
        assert!(["root/root", "0/0"].contains(&owner.as_str()), "{line}");
        words[0].starts_with('-').then(|| {
            let name = words.last().unwrap().trim_start_matches('.').to_owned();
            (name, words[0].to_owned())
        })
    };
    listed.lines().filter_map(file).collect()
}

fn expected(kind: &str, product: Product) -> BTreeMap<String, String> {
    let name = product.name;
    let zsh = if kind == "deb" { "vendor-completions" } else { "site-functions" };
    let mut of = BTreeMap::from([(format!("/usr/bin/{name}"), "-rwxr-xr-x")]);
    let mut plain = vec![
        format!("/usr/lib/systemd/system/{name}.service"),
        format!("/usr/share/bash-completion/completions/{name}"),
        format!("/usr/share/fish/vendor_completions.d/{name}.fish"),
        format!("/usr/share/zsh/{zsh}/_{name}"),
    ];
    plain.extend(
        ["changelog.gz", "EXIT_CODES.md", "copyright", "sbom.cdx.json"]
            .map(|file| format!("/usr/share/doc/{name}/{file}")),
    );
    let examples: &[&str] = match name {
        "mobility-agent" => &["applications", "large-disks", "less-processor", "local-vault", "urgent-guard"],
        _ => &["failover-host", "port-443", "storage-directory"],
    };
    plain.extend(examples.iter().map(|example| format!("/usr/share/doc/{name}/examples/{example}.conf")));
    if kind == "deb" {
        plain.push(format!("/usr/share/doc/{name}/changelog.Debian.gz"));
    }
    if name == "mobility-agent" {
        plain.push("/usr/lib/systemd/system/mobility-agent-halted.target".to_owned());
        plain.push("/usr/lib/tmpfiles.d/mobility-agent.conf".to_owned());
        plain.push("/etc/mobility-agent/config.d/10-defaults.toml".to_owned());
        if kind == "rpm" {
            plain.push("/usr/lib/systemd/system-preset/90-mobility-agent.preset".to_owned());
        }
        for script in ["50-mysql", "50-postgresql"] {
            of.insert(format!("/usr/lib/mobility-agent/scripts.d/{script}"), "-rwxr-xr-x");
        }
    } else {
        plain.push("/usr/lib/sysusers.d/recovery-service.conf".to_owned());
        of.insert("/etc/recovery-service/service.toml".to_owned(), "-rw-r-----");
    }
    of.extend(plain.into_iter().map(|path| (path, "-rw-r--r--")));
    of.into_iter().map(|(path, mode)| (path, mode.to_owned())).collect()
}

#[test]
fn packages_hold_what_they_should_and_nothing_else() {
    if !can_make() {
        return;
    }
    for kind in ["deb", "rpm"] {
        for product in PRODUCTS {
            let mut found = files(kind, product);
            found.retain(|path, _| !path.starts_with("/usr/share/man/man1/"));
            assert_eq!(found, expected(kind, product), "{kind} {}", product.name);
        }
    }
}

#[test]
fn every_command_has_a_manual_page_and_is_completed() {
    if !can_make() {
        return;
    }
    for product in PRODUCTS {
        let dir = unpacked(product);
        let completion = dir.path().join(format!("usr/share/bash-completion/completions/{}", product.name));
        let completion = fs::read_to_string(completion).unwrap();
        let mut pages = vec![product.name.to_owned()];
        for words in commands(&program(product.name)) {
            pages.push(format!("{}-{}", product.name, words.join("-")));
            let known = completion.contains(&words[words.len() - 1]);
            assert!(known, "{}: bash does not complete {words:?}", product.name);
        }
        for kind in ["deb", "rpm"] {
            let found = files(kind, product).into_iter();
            let mut found: Vec<_> = found
                .filter_map(|(path, mode)| {
                    let page = path.strip_prefix("/usr/share/man/man1/")?.strip_suffix(".1.gz")?.to_owned();
                    assert_eq!(mode, "-rw-r--r--", "{path}");
                    Some(page)
                })
                .collect();
            found.sort();
            pages.sort();
            assert_eq!(found, pages, "{kind}");
        }
    }
}

/// What can be said, said: the comment signs taken away in front of all settings.
fn all_said(text: &str) -> String {
    let setting = |line: &&str| {
        line.strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()))
    };
    text.lines().map(|line| if setting(&line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_configuration_that_comes_with_the_agent_is_valid_and_changes_nothing() {
    if !can_make() {
        return;
    }
    let dir = unpacked(AGENT);
    let agent = program(AGENT.name);
    let shown = |root: &Path| {
        run(agent.to_str().unwrap(), &["run", "--print-config", "--config-root", root.to_str().unwrap()])
    };
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(shown(dir.path()), shown(empty.path()));
    let path = dir.path().join("etc/mobility-agent/config.d/10-defaults.toml");
    let said = all_said(&fs::read_to_string(&path).unwrap());
    fs::write(&path, said).unwrap();
    let all = shown(dir.path());
    for setting in ["disks = ", "upload-rate = ", "ca-file = ", "proxy = "] {
        assert!(all.contains(setting), "{setting} has no effect:\n{all}");
    }
}

#[test]
fn the_configuration_that_comes_with_the_service_is_valid() {
    if !can_make() {
        return;
    }
    let dir = unpacked(SERVICE);
    let path = dir.path().join("etc/recovery-service/service.toml");
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        let service = program(SERVICE.name);
        // Nothing is there yet, which is found out when the configuration was taken.
        let output = Command::new(service).args(["points", "--config"]).arg(&path).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = fs::read_to_string(&path).unwrap();
    let refused = "the configuration";
    assert!(!read(&text).contains(refused), "{}", read(&text));
    let said = read(&all_said(&text));
    assert!(!said.contains(refused) && said.contains("credentials") || said.contains(".toml"), "{said}");
    assert!(read(&format!("{text}\nnonsense = 1")).contains(refused));
}

#[test]
fn the_same_programs_give_the_same_package() {
    if !can_make() {
        return;
    }
    for (kind, product) in [("deb", AGENT), ("rpm", AGENT)] {
        let elsewhere = tempfile::tempdir().unwrap();
        let again = make(kind, product, elsewhere.path(), &[]);
        let first = package(kind, product);
        assert!(
            fs::read(&first).unwrap() == fs::read(&again).unwrap(),
            "{} differs from {}",
            first.display(),
            again.display()
        );
        let sbom = |package: &Path| fs::read(format!("{}.sbom.cdx.json", package.display())).unwrap();
        assert!(sbom(&first) == sbom(&again));
    }
}

#[test]
fn the_sbom_names_what_is_compiled_in() {
    if !can_make() {
        return;
    }
    for (product, there, not_there) in [(AGENT, "aya", "axum"), (SERVICE, "axum", "aya")] {
        let path = format!("{}.sbom.cdx.json", package("deb", product).display());
        let sbom: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(sbom["bomFormat"], "CycloneDX");
        let components = sbom["components"].as_array().unwrap();
        let named = |name: &str| components.iter().any(|component| component["name"] == name);
        assert!(named(there) && !named(not_there) && !named("proptest"), "{}", product.name);
        for component in components {
            let own = component["name"].as_str().unwrap().starts_with("mobility-");
            assert!(component["licenses"][0]["expression"].is_string(), "{component}");
            assert!(own || component["hashes"][0]["content"].is_string(), "{component}");
        }
    }
}

/// The newest version of the C library that a program needs, as numbers.
fn needed(program: &Path) -> (u32, u32) {
    let symbols = run("objdump", &["-T", program.to_str().unwrap()]);
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let version = rest.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
        let mut numbers = version.split('.').map(|number| number.parse().unwrap());
        Some((numbers.next()?, numbers.next()?))
    });
    versions.max().expect("it needs no C library")
}

#[test]
fn a_package_asks_for_the_c_library_that_its_program_needs() {
    if !can_make() {
        return;
    }
    for product in PRODUCTS {
        let (major, minor) = needed(&programs().join(product.name));
        let depends = run("dpkg-deb", &["-f", package("deb", product).to_str().unwrap(), "Depends"]);
        assert!(depends.contains(&format!("libc6 (>= {major}.{minor})")), "{major}.{minor}: {depends}");
        let requires = run("rpm", &["-qRp", package("rpm", product).to_str().unwrap()]);
        assert!(requires.contains("libc.so.6"), "{requires}");
        if std::env::var_os("MOBILITY_RELEASE_PROGRAMS").is_some() {
            assert!((major, minor) <= (2, 31), "{} needs {major}.{minor}", product.name);
        }
    }
}
