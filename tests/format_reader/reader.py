#!/usr/bin/env python3
"""A second reader of the format, written from docs/FORMAT.md and from nothing else.

It exists to prove that the page is enough: tests/format/main.rs compares it with the Rust reader, and whoever has a vault
and none of our programs can restore a point with it. It favours being easy to check against the page over speed.
Deliberately not here: writing, listing and pruning.

    reader.py segment FILE                  what a segment holds, as JSON, after checking all of it
    reader.py envelope FILE                 what an envelope holds, as JSON, after checking all of it
    reader.py restore --vault DIR --machine ID --disk ID --epoch N --output FILE [--key PUBLIC-KEY]
    reader.py packages                      only whether the packages it needs are there

Needs the packages blake3, zstandard and pynacl. Ends with 0, with 1 where an object is refused, with 2 where it cannot
run at all.
"""

import argparse
import io
import json
import pathlib
import struct
import sys

try:
    import blake3
    import nacl.exceptions
    import nacl.signing
    import zstandard
except ImportError as missing:
    sys.stderr.write(f"reader.py: {missing}; install blake3, zstandard and pynacl\n")
    sys.exit(2)

BLOCK = 4096
WINDOW_BLOCKS = 256
HEADER, ENTRY, FOOTER = 128, 64, 128
MAX_ENTRIES = 1 << 22
MAX_BLOCKS = 1 << 52
MAX_BODY = 64 << 20
ZSTD_WINDOW = 1 << 20
ZERO, STORED, ZSTD = 0, 1, 2
KINDS = {ZERO: "zero", STORED: "stored", ZSTD: "zstd"}
NONE = bytes(32)
SIGNING_CONTEXT = b"mobility-agent 2026 envelope\0"
MANIFEST, RUN, MACHINE, MERGE = (b"\x89MOB" + name + b"\n" for name in (b"PNT", b"RUN", b"MCH", b"MRG"))
ENVELOPES = {MANIFEST: "manifest", RUN: "run", MACHINE: "machine", MERGE: "merge", b"\x89MOBRCV\n": "receipt"}


class Refused(Exception):
    """An object breaks a rule of the format; says which."""


def rule(holds, text):
    if not holds:
        raise Refused(text)


def digest(data):
    return blake3.blake3(data).digest()


class Extent:
    """An entry of a segment's index."""

    def __init__(self, raw, index_offset):
        self.start, self.count, self.kind = struct.unpack_from("<QIB", raw, 0)
        self.offset, self.length = struct.unpack_from("<QI", raw, 16)
        self.digest = raw[32:64]
        rule(raw[13:16] == bytes(3) and raw[28:32] == bytes(4), "index: a reserved byte is not 0")
        rule(self.kind in KINDS, f"index: kind {self.kind} is not known")
        rule(self.count > 0 and self.start + self.count <= MAX_BLOCKS, "index: range empty or beyond any disk")
        if self.kind == ZERO:
            rule(self.offset == 0 and self.length == 0 and self.digest == NONE, "index: a zero extent has content")
            return
        last = self.start + self.count - 1
        rule(self.start // WINDOW_BLOCKS == last // WINDOW_BLOCKS, "index: an extent crosses a window's border")
        plain = self.count * BLOCK
        fits = self.length == plain if self.kind == STORED else 0 < self.length < plain
        rule(fits, "index: the stored length does not fit the kind")
        rule(HEADER <= self.offset and self.offset + self.length <= index_offset, "index: outside of the payload")

    @property
    def end(self):
        return self.start + self.count


class Segment:
    """A segment whose header, index and footer have been checked. Content is checked when it is read."""

    def __init__(self, path):
        self.path = path
        self.length = path.stat().st_size
        rule(self.length >= HEADER + FOOTER, "segment: truncated")
        header = self._read(0, HEADER)
        self._parse_header(header)
        footer = self._read(self.length - FOOTER, FOOTER)
        rule(footer[120:] == b"MOBSEG\n\x89", "footer: wrong magic")
        self.index_offset, entries, length = struct.unpack_from("<QQQ", footer, 0)
        self.payload_digest, self.digest = footer[24:56], footer[56:88]
        rule(length == self.length, f"footer: length {length}, but the object has {self.length}")
        rule(footer[88:120] == bytes(32), "footer: a reserved byte is not 0")
        rule(entries <= MAX_ENTRIES, "footer: too many extents")
        rule(self.index_offset >= HEADER, "footer: the index lies in the header")
        rule(self.index_offset + ENTRY * entries + FOOTER == length, "footer: the index does not end at the footer")
        index = self._read(self.index_offset, ENTRY * entries)
        rule(digest(header + index + footer[:56]) == self.digest, "segment: does not match its digest")
        self.extents = [Extent(index[i : i + ENTRY], self.index_offset) for i in range(0, len(index), ENTRY)]
        for one, two in zip(self.extents, self.extents[1:]):
            rule(one.end <= two.start, "index: extents out of order or overlapping")
        rule(sum(e.length for e in self.extents) == self.index_offset - HEADER, "index: extents do not fill the payload")

    def _parse_header(self, header):
        rule(header[:8] == b"\x89MOBSEG\n", "header: wrong magic")
        version, header_length, encryption = struct.unpack_from("<HHB", header, 8)
        rule(version == 1, f"header: version {version} is not known")
        rule(digest(header[:120])[:8] == header[120:], "header: does not match its check")
        rule(encryption == 0, f"header: payload encryption {encryption} is not known")
        rule(header_length == HEADER, "header: wrong length")
        rule(header[13:16] == bytes(3) and header[84:88] == bytes(4), "header: a reserved byte is not 0")
        self.machine, self.disk = header[16:32].hex(), header[32:48].hex()
        self.generation, self.first_epoch, self.last_epoch = struct.unpack_from("<QQQ", header, 48)
        self.session = header[72:80].hex()
        (self.part,) = struct.unpack_from("<I", header, 80)
        self.previous = header[88:120].hex()
        rule(1 <= self.first_epoch <= self.last_epoch, "header: the epochs are not in order")

    def _read(self, offset, length):
        # Opened for each read: a long chain has more segments than a process may have files open.
        with open(self.path, "rb") as file:
            file.seek(offset)
            data = file.read(length)
        rule(len(data) == length, f"segment: ends within bytes {offset}..{offset + length}")
        return data

    def content(self, extent):
        """The content of an extent, checked. Never asked of a zero extent, which may be of any length."""
        stored, plain = self._read(extent.offset, extent.length), extent.count * BLOCK
        if extent.kind == ZSTD:
            decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
            try:
                with decoder.stream_reader(io.BytesIO(stored), read_across_frames=False) as stream:
                    stored = stream.read(plain + 1)
            except zstandard.ZstdError as err:
                raise Refused(f"extent at block {extent.start}: does not decompress: {err}") from err
        rule(len(stored) == plain, f"extent at block {extent.start}: decodes to another length")
        rule(digest(stored) == extent.digest, f"extent at block {extent.start}: does not match its digest")
        return stored

    def check_payload(self):
        payload = self._read(HEADER, self.index_offset - HEADER)
        rule(digest(payload) == self.payload_digest, "payload: does not match its digest")


class Envelope:
    """A JSON document whose digest, and signature where there is one, have been checked."""

    def __init__(self, data, magic=None):
        rule(len(data) >= 48, "envelope: truncated")
        rule(data[:8] in ENVELOPES and magic in (None, data[:8]), "envelope: wrong magic")
        self.kind = ENVELOPES[data[:8]]
        version, flags, n = struct.unpack_from("<HHI", data, 8)
        rule(version == 1, f"envelope: version {version} is not known")
        rule(n <= MAX_BODY, "envelope: the body is too long")
        rule(len(data) == (144 if flags & 1 else 48) + n, "envelope: truncated or extended")
        rule(digest(data[:-32]) == data[-32:], "envelope: does not match its digest")
        rule(flags & ~1 == 0, "envelope: a reserved flag is set")
        self.key = None
        if flags & 1:
            self.key = data[16 + n : 48 + n]
            self._check_signature(SIGNING_CONTEXT + digest(data[: 48 + n]), data[48 + n : 112 + n])
        rule(magic != MANIFEST or self.key, "envelope: a manifest is not signed")
        self.digest = digest(data).hex()
        try:
            self.body = json.loads(data[16 : 16 + n])
        except ValueError as err:
            raise Refused(f"envelope: the body is not JSON: {err}") from err

    def _check_signature(self, signed, signature):
        try:
            nacl.signing.VerifyKey(self.key).verify(signed, signature)
        except nacl.exceptions.BadSignatureError as err:
            raise Refused("envelope: forged, the signature does not fit") from err


class Vault:
    """Finds objects by their keys, and checks that they are what their keys say."""

    def __init__(self, root, machine, key):
        self.root, self.machine, self.key = pathlib.Path(root), machine, key
        self.manifests = {}
        record = self.root / "target" / machine / "machine"
        if not key and record.exists():
            self.key = bytes.fromhex(Envelope(record.read_bytes(), MACHINE).body["key"])

    def manifest(self, epoch):
        """The manifest of an epoch and the cache folder that its segments may lie in, or nothing."""
        if epoch not in self.manifests:
            name = f"{epoch:020}"
            target = self.root / "target" / self.machine / "points" / f"{name}.point"
            cached = sorted((self.root / "cache" / self.machine).glob(f"*/{name}/point"))
            path = target if target.exists() else next(iter(cached), None)
            self.manifests[epoch] = path and (self._checked(path, epoch), [c.parent for c in cached])
        return self.manifests[epoch]

    def _checked(self, path, epoch):
        opened = Envelope(path.read_bytes(), MANIFEST)
        body = opened.body
        rule(body["machine"] == self.machine and body["epoch"] == epoch, f"{path}: another manifest in its place")
        self.key = self.key or opened.key
        rule(opened.key == self.key, f"{path}: signed with the key {opened.key.hex()}, not with the machine's")
        after = self.manifests.get(epoch + 1)
        rule(not after or after[0].body["previous"] == opened.digest, f"{path}: not the one that its successor names")
        return opened

    def runs(self, disk):
        for path in sorted((self.root / "target" / self.machine / "merged" / disk).glob("*-*/run")):
            run = Envelope(path.read_bytes(), RUN).body
            named = f"{run['first_epoch']:020}-{run['last_epoch']:020}"
            same = run["machine"] == self.machine and run["disk"] == disk and path.parent.name == named
            rule(same, f"{path}: another run in its place")
            yield path.parent, run

    def merges_without(self, disk):
        for path in sorted((self.root / "target" / self.machine / "merged").glob("*-*.merge")):
            merge = Envelope(path.read_bytes(), MERGE).body
            named = f"{merge['first_epoch']:020}-{merge['last_epoch']:020}.merge"
            rule(merge["machine"] == self.machine and path.name == named, f"{path}: another record in its place")
            if all(d["id"] != disk for d in merge["disks"]):
                yield merge

    def layers(self, disk, epoch):
        """What makes up a disk at an epoch, oldest first: its size then, where that is told, and segments."""
        runs, merges, layers, p = list(self.runs(disk)), list(self.merges_without(disk)), [], epoch

        def fits(record):
            return record["first_epoch"] <= p <= record["last_epoch"] <= epoch

        while p > 0:
            fitting = [(folder, run) for folder, run in runs if fits(run)]
            if fitting:
                folder, run = min(fitting, key=lambda pair: pair[1]["first_epoch"])
                layers.append((run["size"], [self._of_run(folder, run, ref) for ref in run["segments"]]))
                p = run["first_epoch"] - 1
                continue
            nothing = [merge["first_epoch"] for merge in merges if fits(merge)]
            if nothing:
                p = min(nothing) - 1
                continue
            found = self.manifest(p)
            rule(found, f"epoch {p}: neither a manifest nor a run that holds it")
            size = next((d["size"] for d in found[0].body["disks"] if d["id"] == disk), None)
            layers.append((size, list(self._of_manifest(disk, p, *found))))
            p -= 1
        return layers[::-1]

    def _of_run(self, folder, run, ref):
        segment = Segment(folder / f"{ref['digest']}.seg")
        return self._same(segment, ref, run["disk"], run["first_epoch"], run["last_epoch"])

    def _of_manifest(self, disk, epoch, manifest, cached):
        for state in manifest.body["disks"]:
            if state["id"] != disk:
                continue
            rule(not (state.get("missing") and state["segments"]), f"epoch {epoch}: a missing disk has segments")
            for ref in state["segments"]:
                name = f"{disk}-{ref['session']}-{ref['part']:08}.seg"
                folders = [self.root / "target" / self.machine / "segments" / f"{epoch:020}", *cached]
                path = next((f / name for f in folders if (f / name).exists()), None)
                rule(path, f"epoch {epoch}: the segment {name} is not there")
                yield self._same(Segment(path), ref, disk, epoch, epoch)

    def _same(self, segment, ref, disk, first, last):
        same = (
            (segment.machine, segment.disk) == (self.machine, disk)
            and (segment.first_epoch, segment.last_epoch) == (first, last)
            and (segment.session, segment.part) == (ref["session"], ref["part"])
            and (segment.digest.hex(), segment.length) == (ref["digest"], ref["length"])
        )
        rule(same, f"{segment.path}: another segment in its place")
        return segment

    def restore(self, disk, epoch, output):
        found = self.manifest(epoch)
        rule(found and found[0].body["kind"] == "point", f"epoch {epoch}: there is no recovery point")
        size = next((d["size"] for d in found[0].body["disks"] if d["id"] == disk), None)
        rule(size is not None, f"epoch {epoch}: the disk {disk} is not in it")
        with open(output, "wb") as image:
            image.truncate(size)
            before = 0
            for then, segments in self.layers(disk, epoch):
                if then is not None:
                    zero(image, -(-then // BLOCK) * BLOCK, min(before, size))
                    before = -(-then // BLOCK) * BLOCK
                for segment in segments:
                    for extent in segment.extents:
                        apply(image, segment, extent, size)


def apply(image, segment, extent, size):
    at, end = extent.start * BLOCK, min(extent.end * BLOCK, size)
    if at >= end:
        return
    if extent.kind == ZERO:
        zero(image, at, end)
        return
    image.seek(at)
    image.write(segment.content(extent)[: end - at])


def zero(image, at, end):
    image.seek(at)
    while at < end:
        at += image.write(bytes(min(end - at, 1 << 20)))


def show_segment(path):
    segment = Segment(path)
    segment.check_payload()
    shown = {name: getattr(segment, name) for name in ("machine", "disk", "generation", "first_epoch", "last_epoch")}
    shown |= {"session": segment.session, "part": segment.part, "previous": segment.previous}
    shown["digest"] = segment.digest.hex()
    shown["extents"] = [
        {
            "start": e.start,
            "count": e.count,
            "kind": KINDS[e.kind],
            "content": None if e.kind == ZERO else digest(segment.content(e)).hex(),
        }
        for e in segment.extents
    ]
    return shown


def show_envelope(path):
    opened = Envelope(path.read_bytes())
    rule(opened.kind != "manifest" or opened.key, "envelope: a manifest is not signed")
    key = opened.key and opened.key.hex()
    return {"kind": opened.kind, "key": key, "digest": opened.digest, "body": opened.body}


def main():
    parser = argparse.ArgumentParser(description="A second reader of the format of docs/FORMAT.md.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("packages")
    for name in ("segment", "envelope"):
        commands.add_parser(name).add_argument("file", type=pathlib.Path)
    restore = commands.add_parser("restore")
    for name in ("--vault", "--machine", "--disk", "--output"):
        restore.add_argument(name, required=True)
    restore.add_argument("--epoch", required=True, type=int)
    restore.add_argument("--key", type=bytes.fromhex, help="the machine's public key, else that of its record")
    args = parser.parse_args()
    try:
        match args.command:
            case "segment":
                print(json.dumps(show_segment(args.file)))
            case "envelope":
                print(json.dumps(show_envelope(args.file)))
            case "restore":
                Vault(args.vault, args.machine, args.key).restore(args.disk, args.epoch, args.output)
    except (Refused, OSError) as err:
        sys.exit(f"reader.py: {err}")
    except (KeyError, TypeError) as err:
        sys.exit(f"reader.py: a document lacks a field or has one of another type: {err!r}")


if __name__ == "__main__":
    main()
