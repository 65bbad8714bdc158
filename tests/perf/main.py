"""The benchmarks as a whole; started by `run` beside it, which explains the flags."""

import argparse
import functools
import os
import sys

import costs
import exports
import image
import jobs
import login
import machine
from peers import all_peers
from report import Report, about

JOBS = {"initial": jobs.initial, "delta": jobs.delta, "restore": jobs.restore, "tracker": costs.tracker,
        "footprint": costs.footprint, "exports": exports.exports,
        "login": login.login}


class Bench:
    """What all jobs share: the programs, the disks, how often and how large."""

    def __init__(self, args):
        self.quick, self.tib = args.quick, args.tib
        self.programs = os.path.abspath(args.bin)
        self.mib = 64 if args.quick else 1024
        self.large_gib = 1 if args.quick else 64
        self.login_mib = 1536 if args.quick else 8192
        self.changes = self.mib * 256 // 100
        self.runs = args.runs or (1 if args.quick else 3)
        self.pairs = 1 if args.quick else max(5, self.runs)
        self.fio_seconds = 1 if args.quick else 8
        self.minute_seconds = 2 if args.quick else 60
        self.idle_seconds = 5 if args.quick else 60
        self.scratch = machine.scratch(args.dir)
        self.image = os.path.join(self.scratch, "disk.img")
        image.make(self.image, self.mib)
        machine.settle()
        self.passes = []
        known = all_peers(self.scratch) if args.peers else []
        self.peers = [peer for peer in known if peer.program]
        self.report = Report(about(self.peers))
        print(self.report.about)
        for peer in known:
            if not peer.program:
                self.report.missing(peer.name, "is not installed")

    @functools.cache
    def device(self):
        """A loop device over a copy of the image, so that nobody else writes to the file below it."""
        path = os.path.join(self.scratch, "device.img")
        image.make(path, self.mib)
        return machine.loop(path)

    @functools.cache
    def large_device(self):
        """The image with nothing behind it, many times as long."""
        path = os.path.join(self.scratch, "large.img")
        image.make(path, self.mib)
        os.truncate(path, self.large_gib << 30)
        return machine.loop(path)


def main():
    parser = argparse.ArgumentParser(prog="tests/perf/run")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(JOBS))
    parser.add_argument("--runs", type=int)
    parser.add_argument("--tib", action="store_true")
    parser.add_argument("--dir", default="/var/tmp")
    parser.add_argument("--bin", required=True)
    args = parser.parse_args()
    if unknown := set(args.only) - set(JOBS):
        parser.error(f"no such job: {', '.join(sorted(unknown))}; there are {', '.join(JOBS)}")
    bench = Bench(args)
    failed = False
    for name in JOBS:
        if name not in args.only:
            continue
        try:
            JOBS[name](bench)
        except (RuntimeError, OSError) as err:
            bench.report.missing(name, f"FAILED: {err}")
            failed = True
    bench.report.summary()
    if args.json:
        bench.report.write(args.json)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
