"""The disk that is measured with, and the changes made to it: the same bytes on every run of one machine.

A disk image of which a quarter is random, three eighths are real files, an eighth is log text and a quarter is zero, in
shuffled slots of 1 MiB. The real files are the machine's own /usr, so images of two machines differ.
"""

import mmap
import os
import random
import subprocess

MIB = 1 << 20
BLOCK = 4096

FILES = (
    "find /usr/lib /usr/bin /usr/share -xdev -type f -print0 2>/dev/null | LC_ALL=C sort -z | "
    "tar --null -T - --no-recursion --mtime=@0 --owner=0 --group=0 -cf - 2>/dev/null"
)


def make(path, mib):
    """Writes the image of `mib` MiB, a multiple of 8."""
    rng = random.Random(1)
    parts = [("random", 2), ("files", 3), ("text", 1), ("zero", 2)]
    slots = [kind for kind, eighths in parts for _ in range(mib * eighths // 8)]
    rng.shuffle(slots)
    words = ["%x" % rng.getrandbits(rng.choice([8, 16, 24, 32])) for _ in range(4096)]
    files = subprocess.Popen(FILES, shell=True, stdout=subprocess.PIPE)
    with open(path, "wb") as image:
        for slot in slots:
            if slot == "zero":
                image.seek(MIB, os.SEEK_CUR)
            elif slot == "random":
                image.write(rng.randbytes(MIB))
            elif slot == "files":
                data = files.stdout.read(MIB)
                if len(data) != MIB:
                    raise SystemExit("/usr of this machine holds too few files for the image")
                image.write(data)
            else:
                image.write(text(rng, words))
        image.truncate(mib * MIB)
        image.flush()
        os.fsync(image.fileno())
    files.stdout.close()
    files.wait()


def text(rng, words):
    lines, length = [], 0
    while length < MIB:
        line = "2026-01-%02dT%02d:%02d:%02d host app[%d]: %s\n" % (
            rng.randrange(1, 31), rng.randrange(24), rng.randrange(60), rng.randrange(60), rng.randrange(9999),
            " ".join(rng.choices(words, k=9)))
        lines.append(line)
        length += len(line)
    return "".join(lines).encode()[:MIB]


def change(path, size, count, seed):
    """Overwrites `count` random blocks of the `size` bytes with content that compresses to about a half, past the page
    cache where `path` is a device. Returns what was written."""
    rng = random.Random(seed)
    device = not os.path.isfile(path)
    fd = os.open(path, os.O_WRONLY | (os.O_DIRECT if device else 0))
    # Anonymous memory begins at a page, as O_DIRECT asks.
    block = mmap.mmap(-1, BLOCK)
    written = bytearray()
    try:
        for index in sorted(rng.sample(range(size // BLOCK), count)):
            block[:] = rng.randbytes(2048) + (b"%016x" % rng.getrandbits(64)) * 128
            os.pwrite(fd, block, index * BLOCK)
            written += block
        os.fsync(fd)
    finally:
        os.close(fd)
    return bytes(written)
