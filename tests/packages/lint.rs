//! What the distributions' own judges of packages say: no errors.
//!
//! Deliberately not here: their warnings, many of which are about how their own packages are made.

use std::process::Command;

use crate::made::{PRODUCTS, can_make, package, root};

#[test]
fn lintian_finds_no_error() {
    if !can_make() {
        return;
    }
    for product in PRODUCTS {
        let mut lintian = Command::new("lintian");
        lintian.args(["--allow-root", "--no-cfg", "--fail-on", "error", "--tag-display-limit", "0"]);
        // Debian's archive keeps /opt and new closes-bugs rules to itself; ours is no upload to it.
        lintian.args(["--suppress-tags", "bad-distribution-in-changes-file"]);
        let judged = lintian.arg(package("deb", product)).output().unwrap();
        let said = String::from_utf8_lossy(&judged.stdout);
        assert!(judged.status.success() && !said.contains("\nE: ") && !said.starts_with("E: "), "{said}");
    }
}

#[test]
fn rpmlint_finds_no_error() {
    if !can_make() {
        return;
    }
    for product in PRODUCTS {
        let judged = Command::new("rpmlint")
            .arg("--config")
            .arg(root().join("packaging/rpm/rpmlint.toml"))
            .arg(package("rpm", product))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&judged.stdout);
        assert!(said.contains(" 0 errors"), "{said}{}", String::from_utf8_lossy(&judged.stderr));
    }
}
