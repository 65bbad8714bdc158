#!/usr/bin/env bash
# Makes the archive of the VM extension: the handler for each processor, the agent's packages, and what describes it.
# The same input gives the same bytes: names are sorted and times fixed.
#
#   packaging/vm-extension/build.sh [--version A.B.C.D] [--output FILE] [--handler PROGRAM]... PACKAGE...
#
# PACKAGE is a .deb or .rpm of the agent, one for each kind and processor. PROGRAM is `mobility-extension`, built for one
# processor; that of target/programs or of target/release if none is given. Needs python3.
#
# Deliberately not here: building the handler and the packages, and publishing the archive (README.md).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
usage() { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 64; }
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -1).0
output="" handlers=() packages=()
while [ $# -gt 0 ]; do
    case "$1" in
        --version) version=${2:?} && shift 2 ;;
        --output) output=${2:?} && shift 2 ;;
        --handler) handlers+=("${2:?}") && shift 2 ;;
        -*) usage ;;
        *) packages+=("$1") && shift ;;
    esac
done
[ ${#packages[@]} -gt 0 ] || usage
[[ $version =~ ^[0-9]+(\.[0-9]+){3}$ ]] || { echo "build.sh: a version has four numbers, such as 1.2.3.0, not '$version'" >&2; exit 64; }
if [ ${#handlers[@]} = 0 ]; then
    # As packages carry it, if there is one.
    handlers=("$root/target/programs/mobility-extension")
    [ -e "${handlers[0]}" ] || handlers=("$root/target/release/mobility-extension")
fi
output=${output:-$root/target/MobilityAgentLinux-$version.zip}
mkdir -p "$(dirname "$output")"
# As packages carry programs: what debuggers want is large, and says where the C library's part of it was compiled.
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
for number in "${!handlers[@]}"; do
    # Of another processor it stays as it is, where this machine's tools know their own alone.
    if strip --strip-debug -o "$stage/$number" "${handlers[$number]}" 2>/dev/null; then handlers[number]="$stage/$number"; fi
done

python3 - "$here/package" "$version" "$output" "${handlers[@]}" -- "${packages[@]}" <<'PYTHON'
import json, os, re, sys, xml.dom.minidom, zipfile

package, version, output = sys.argv[1:4]
split = sys.argv.index("--", 4)
handlers, packages = sys.argv[4:split], sys.argv[split + 1:]
files = {}

def add(name, content, mode):
    if name in files:
        sys.exit(f"build.sh: {name} would be there twice")
    files[name] = (content, mode)

def read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        sys.exit(f"build.sh: {error}")

for name in ["HandlerManifest.json", "manifest.xml", "bin/handler"]:
    content = read(os.path.join(package, name)).replace(b"@VERSION@", version.encode())
    add(name, content, 0o755 if name == "bin/handler" else 0o644)
manifest = json.loads(files["HandlerManifest.json"][0])
# Guest agents take the name up to the first hyphen.
assert len(manifest) == 1 and "-" not in manifest[0]["name"]
xml.dom.minidom.parseString(files["manifest.xml"][0])

processors = {62: "x86_64", 183: "aarch64"}
for path in handlers:
    content = read(path)
    machine = int.from_bytes(content[18:20], "little")
    if content[:4] != b"\x7fELF" or machine not in processors:
        sys.exit(f"build.sh: {path} is no program for one of {sorted(processors.values())}")
    add(f"bin/mobility-extension-{processors[machine]}", content, 0o755)
for path in packages:
    name = os.path.basename(path)
    if not re.match(r"mobility-agent(_.*\.deb|-[0-9].*\.rpm)$", name):
        sys.exit(f"build.sh: {path} is no package of the agent: mobility-agent….deb or .rpm")
    add(f"packages/{name}", read(path), 0o644)

unfinished = output + ".new"
with zipfile.ZipFile(unfinished, "w") as archive:
    for name in sorted(files):
        content, mode = files[name]
        entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        entry.create_system, entry.external_attr = 3, (0o100000 | mode) << 16
        # Packages are compressed already.
        packed = name.startswith("packages/")
        entry.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
        archive.writestr(entry, content)
os.replace(unfinished, output)
PYTHON
echo "$output"
