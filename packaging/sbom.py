"""Prints the SBOM of one of the programs, in CycloneDX 1.5: the crates that are compiled into it, with version, licence and
the digest that Cargo.lock holds it to.

Deliberately not here: crates that only tests, build scripts and macros need, and the C library, which is the system's.

    packaging/sbom.py mobility-agent
"""

import json
import os
import pathlib
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = os.environ.get("MOBILITY_TARGET", f"{os.uname().machine}-unknown-linux-gnu")


def metadata():
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def compiled_in(name):
    """Names and versions of the packages that are linked into a program. `cargo metadata` joins the features of all programs of
    the workspace, so one would be said to hold what only the other does; `cargo tree` does not."""
    command = ["cargo", "tree", "--locked", "--package", name, "--edges", "normal,no-proc-macro", "--target", TARGET]
    command += ["--prefix", "none", "--format", "{p}"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    words = [line.split() for line in lines if line]
    return {(name, version.removeprefix("v")) for name, version, *_ in words}


def component(package, digests):
    of = {
        "type": "library",
        "bom-ref": f"pkg:cargo/{package['name']}@{package['version']}",
        "name": package["name"],
        "version": package["version"],
        "purl": f"pkg:cargo/{package['name']}@{package['version']}",
    }
    if package["license"]:
        # Older crates write `MIT/Apache-2.0`.
        of["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if digest := digests.get((package["name"], package["version"])):
        of["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return of


def main(name):
    read = metadata()
    packages = {package["id"]: package for package in read["packages"]}
    nodes = {node["id"]: node for node in read["resolve"]["nodes"]}
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    digests = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    start = next(id for id in read["workspace_members"] if packages[id]["name"] == name)
    there = compiled_in(name)
    wanted = {id for id, package in packages.items() if (package["name"], package["version"]) in there}
    refs = {id: f"pkg:cargo/{packages[id]['name']}@{packages[id]['version']}" for id in wanted}
    depends = {
        refs[id]: sorted({refs[d["pkg"]] for d in nodes[id]["deps"] if d["pkg"] in wanted}) for id in wanted
    }
    others = sorted((packages[id] for id in wanted - {start}), key=lambda p: (p["name"], p["version"]))
    sbom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {**component(packages[start], digests), "type": "application"}},
        "components": [component(package, digests) for package in others],
        "dependencies": [{"ref": ref, "dependsOn": depends[ref]} for ref in sorted(depends)],
    }
    json.dump(sbom, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main(sys.argv[1])
