#!/usr/bin/env bash
# Makes a package. With the SBOM of what it was made of beside it, and inside.
#
#   packaging/build.sh deb agent      mobility-agent_VERSION-1_ARCH.deb
#   packaging/build.sh rpm service    recovery-service-VERSION-1.ARCH.rpm; likewise: rpm agent, deb service
#
#   --programs DIR    the programs are there already; if not said, packaging/build-programs.sh makes them
#   --out DIR         where to; target/packages if not said
#   --version V       another version than that of Cargo.toml
#   --quick           compress little, for tests
#
# The same programs give the same package, bit for bit, whenever and wherever it is made: every time in it is that of the
# last commit, or SOURCE_DATE_EPOCH. Deliberately not here: installing what this needs (install-package-tools.sh).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/packaging/installing.sh"
usage() { sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 64; }

[ $# -ge 2 ] || usage
kind=$1 what=$2 programs='' out="$root/target/packages" version='' quick=false
shift 2
while [ $# -gt 0 ]; do
    case "$1" in
        --programs) programs=$(realpath "${2:?}"); shift 2 ;;
        --out) mkdir -p "${2:?}"; out=$(realpath "$2"); shift 2 ;;
        --version) version=${2:?}; shift 2 ;;
        --quick) quick=true; shift ;;
        *) usage ;;
    esac
done
case "$what" in
    agent) name=mobility-agent crate=mobility-agent folder=agent/daemon ;;
    service) name=recovery-service crate=mobility-recovery folder=agent/recovery ;;
    *) usage ;;
esac
case "$kind" in deb | rpm) ;; *) usage ;; esac

export PATH="$root/target/package-tools/bin:$PATH:$HOME/.cargo/bin"
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}"
export TZ=UTC LC_ALL=C
umask 022
mkdir -p "$out"
if [ -z "$programs" ]; then
    "$root/packaging/build-programs.sh"
    programs="$root/target/programs"
fi

# Where the tools that make packages look for what cargo built: the program without symbols, and what it says of itself.
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/release/manual"
strip -o "$stage/release/$name" "$programs/$name"
"$programs/$name" manual "$stage/release/manual"
(cd "$stage/release/manual" && mv "_$name" "$name.zsh" && mv "$name.bash" "$name.bash-completion")
gzip -9n "$stage"/release/manual/*.1
gzip -9nc "$root/docs/CHANGELOG.md" >"$stage/release/manual/changelog.gz"
python3 "$root/packaging/sbom.py" "$crate" >"$stage/release/manual/sbom.cdx.json"

cd "$root/$folder"
case "$kind" in
    deb)
        # dpkg-shlibdeps, which cargo-deb asks, takes a function for as new as the file that it is in here: glibc 2.34 moved many. The
        # program's own symbols say which version each is of.
        newest=$(objdump -T "$stage/release/$name" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
        mkdir "$stage/bin"
        printf '#!/bin/sh\n%s "$@" | sed "s/libc6 (>= [0-9.]*)/libc6 (>= %s)/"\n' \
            "$(command -v dpkg-shlibdeps)" "${newest#GLIBC_}" >"$stage/bin/dpkg-shlibdeps"
        chmod 755 "$stage/bin/dpkg-shlibdeps"
        options=(--no-build --no-strip --quiet --output "$out")
        if $quick; then options+=(--fast); fi
        if [ -n "$version" ]; then options+=(--deb-version "$version-1"); fi
        PATH="$stage/bin:$PATH" CARGO_TARGET_DIR="$stage" cargo deb "${options[@]}"
        made=$(ls -t "$out/${name}"_*.deb | head -1)
        ;;
    rpm)
        options=(--package "$folder" --output "$out" --target-dir "$stage" --auto-req builtin --source-date "$SOURCE_DATE_EPOCH")
        if $quick; then options+=(--payload-compress none); fi
        if [ -n "$version" ]; then options+=(--set-metadata "version = \"$version\""); fi
        (cd "$root" && CARGO_TARGET_DIR="$stage" cargo generate-rpm "${options[@]}")
        made=$(ls -t "$out/${name}"-*.rpm | head -1)
        ;;
esac
cp "$stage/release/manual/sbom.cdx.json" "$made.sbom.cdx.json"
say "made $made"
