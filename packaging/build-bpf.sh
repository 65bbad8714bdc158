#!/usr/bin/env bash
# Compiles the tracker's BPF program. Its object is checked in beside the source, so that building the agent needs no clang.
#
#   packaging/build-bpf.sh           compiles agent/capture/bpf/tracker.bpf.c into tracker.bpf.o
#   packaging/build-bpf.sh --check   compiles it elsewhere and fails if the checked-in object is another
#
# Compared are the sections that reach the kernel (programs, maps, BTF, relocations). Debug information is not: it names the
# compiler. Another major version of clang may generate other code, so the object's is noted in tracker.bpf.clang.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../agent/capture/bpf"

clang=${CLANG:-clang}
flags=(-O2 -g -target bpf -mcpu=v3 -Wall -Wextra -Werror -fdebug-compilation-dir=.)
version=$("$clang" -dumpversion)

compile() { "$clang" "${flags[@]}" -c tracker.bpf.c -o "$1"; }

# Prints the name and digest of every section that reaches the kernel.
sections() {
    python3 - "$1" <<'PYTHON'
import hashlib, struct, sys

data = open(sys.argv[1], "rb").read()
shoff, = struct.unpack_from("<Q", data, 0x28)
shentsize, shnum, shstrndx = struct.unpack_from("<HHH", data, 0x3A)
headers = [struct.unpack_from("<IIQQQQIIQQ", data, shoff + i * shentsize) for i in range(shnum)]
names = headers[shstrndx][4]
for header in headers:
    start = names + header[0]
    name = data[start : data.index(b"\0", start)].decode()
    wanted = (".text", "tp_btf/", ".maps", ".rodata", ".BTF", ".reltp_btf/", ".rel.text", ".rel.BTF", "license")
    if name.startswith(wanted):
        print(name, hashlib.sha256(data[header[4] : header[4] + header[5]]).hexdigest())
PYTHON
}

case "${1:-}" in
    "")
        compile tracker.bpf.o
        echo "$version" >tracker.bpf.clang
        ;;
    --check)
        built=$(mktemp --suffix=.bpf.o)
        trap 'rm -f "$built"' EXIT
        compile "$built"
        if ! diff <(sections tracker.bpf.o) <(sections "$built"); then
            echo "agent/capture/bpf/tracker.bpf.o is not what tracker.bpf.c compiles to with clang $version (it was" \
                "compiled with clang $(cat tracker.bpf.clang)): run packaging/build-bpf.sh and commit the object" >&2
            exit 1
        fi
        ;;
    *)
        sed -n '2,8s/^# \{0,1\}//p' "../../../packaging/build-bpf.sh" >&2
        exit 64
        ;;
esac
