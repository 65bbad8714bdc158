"""The sweep of loads for cuts; started by `cuts` beside it, which explains the flags.

Each load is fio's random writes of 4 KiB to a file of 100 MiB, with and without an agent that makes a point every second,
in turns. The vault is in memory: a real one is behind a network, and not on the disk whose latency is measured. Every write's latency is logged, so that those which a freeze held can be left out; the points themselves say
how they were made. Deliberately not here: replication, restore and the tracker's own cost (`main`).
"""

import argparse
import glob
import json
import os
import subprocess
import sys
import time

import machine
from agent import Agent, timestamp
from report import Figure, Report, about, number, ratios

MIB = 1 << 20
FILE_MIB = 100
DISK_MIB = 512
# fio's log has whole milliseconds.
GRAIN = 0.001

# Writers, writes each second of all together (nothing: as many as go), and how they write.
SYNCED = ["--ioengine=psync", "--sync=dsync"]
LOADS = {
    "idle": (4, 48, SYNCED),
    "500": (20, 500, SYNCED),
    "2000": (40, 2000, SYNCED),
    "saturated": (64, None, SYNCED),
    "unsynced": (2, None, ["--ioengine=libaio", "--iodepth=16"]),
}


class Disk:
    """A loop device and what is written to on it: a file, or the device itself."""

    def __init__(self, bench, kind):
        path = os.path.join(bench.scratch, f"{kind}.img")
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, DISK_MIB * MIB)
        self.device = self.target = machine.loop(path)
        if kind != "raw":
            point = os.path.join(bench.scratch, kind)
            os.mkdir(point)
            subprocess.run([f"mkfs.{kind}", "-q", self.device], check=True)
            subprocess.run(["mount", self.device, point], check=True)
            machine.undo(subprocess.run, ["umount", point])
            self.target = os.path.join(point, "written")
        # Later every write is to what is there already.
        subprocess.run(["fio", "--name=fill", f"--filename={self.target}", "--rw=write", "--bs=1M", f"--size={FILE_MIB}M",
                        "--direct=1", "--end_fsync=1"], check=True, stdout=subprocess.DEVNULL)


class Written:
    """What one run of fio did."""

    def __init__(self, began, ended, iops, latencies):
        self.began, self.ended, self.iops, self.latencies = began, ended, iops, latencies

    def p99(self, held=()):
        """In milliseconds, without the writes that were under way while something was held."""
        free = [seconds for at, seconds in self.latencies
                if not any(at - seconds <= end and at >= begin for begin, end in held)]
        return percentile(free, 99) * 1e3


def write(bench, disk, load):
    writers, rate, how = LOADS[load]
    logs = os.path.join(bench.scratch, "fio")
    command = ["fio", "--name=w", f"--filename={disk.target}", f"--size={FILE_MIB}M", "--rw=randwrite", "--bs=4k", "--direct=1",
               "--thread", f"--numjobs={writers}", "--group_reporting", "--time_based", f"--runtime={bench.seconds}",
               "--norandommap", "--randseed=7", "--allrandrepeat=1", *how, f"--write_lat_log={logs}", "--log_unix_epoch=1",
               "--per_job_logs=0", "--disable_clat=1", "--disable_slat=1", "--output-format=json"]
    if rate:
        command += [f"--rate_iops={rate // writers}", "--rate_process=poisson"]
    began = time.time()
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=bench.scratch)
    ended = time.time()
    job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]["write"]
    latencies = []
    for path in glob.glob(f"{logs}*.log"):
        with open(path) as log:
            fields = (line.split(",", 2) for line in log)
            latencies += [(int(at) / 1e3, int(nanoseconds) / 1e9) for at, nanoseconds, _ in fields]
        os.unlink(path)
    return Written(began, ended, job["iops"], latencies)


def percentile(values, percent):
    """The least value that so many are not above; nothing of nothing."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else 0.0


def protected(bench, disk, load):
    """The load under an agent; also the points that were made meanwhile."""
    agent = Agent(bench.programs, bench.memory, disk.device)
    agent.start("1s")
    written = write(bench, disk, load)
    # One that was begun under load is committed after it.
    agent.wait_for_points(len(agent.points()) + 1)
    listed = subprocess.run([os.path.join(bench.programs, "recovery-service"), "points", "--json", "--vault", agent.vault],
                            check=True, capture_output=True, text=True)
    agent.forget()
    points = [point for point in json.loads(listed.stdout)["points"]
              if written.began <= timestamp(point["cut"]["t0"]) <= written.ended]
    return written, points


def held(points):
    """The times in which a freeze may have held writes, as wide as they can have been."""
    spans = ((timestamp(point["cut"]["t0"]), point["cut"]["held_us"] / 1e6) for point in points)
    return [(t0 - length - GRAIN, t0 + length + GRAIN) for t0, length in spans if length]


def measure(bench, kind, disk, load):
    with_agent, without, points, p99 = [], [], [], []
    for pair in range(bench.pairs):
        # The later of a pair may find a device warmed up, or worn: take turns.
        for guarded in (True, False) if pair % 2 else (False, True):
            machine.settle()
            if guarded:
                written, made = protected(bench, disk, load)
                points += made
                with_agent.append(written.iops)
                p99.append(written.p99(held(made)))
            else:
                written = write(bench, disk, load)
                without.append((written.iops, written.p99()))
    rows(bench, f"{kind}, {load}", load, points, with_agent, p99, without)


def method(point):
    return "fuzzy" if point["consistency"] == "fuzzy" else point["cut"]["method"]


def rows(bench, name, load, points, iops, p99, without):
    report = bench.report
    report.section(f"{name}: {LOADS[load][0]} writers, {LOADS[load][1] or 'as much as goes'}")
    if not points:
        return report.missing("points", "none was made under this load")
    share = {of: sum(method(point) == of for point in points) / len(points) for of in sorted(set(map(method, points)))}
    for of, part in share.items():
        report.figure(f"points: {of}", [100 * part], "%", f"of {len(points)}")
    if load in ("idle", "500", "2000"):
        report.target("points made without a freeze, and consistent", [100 * share.get("optimistic", 0)], "%", at_least=100)
    cuts = [point["cut"] for point in points]
    report.figure("tries", [cut["tries"] for cut in cuts], "")
    # Of what is fuzzy the window is that of a try that failed.
    consistent = [point["cut"] for point in points if method(point) != "fuzzy"]
    windows = [cut["window_us"] / 1e3 for cut in consistent]
    holds = [cut["held_us"] / 1e3 for cut in cuts if cut["held_us"]]
    for what, values in (("window", windows), ("held", holds)):
        for of in (50, 99, 100) if values else ():
            report.figure(f"{what}, p{of}" if of < 100 else f"{what}, max", [percentile(values, of)], "ms")
    if holds:
        report.target("held, p99", [percentile(holds, 99)], "ms", at_most=100)
    dirty = [cut["dirty_rate"] / MIB for cut in cuts]
    report.figure("dirty rate", dirty, "MiB/s")
    report.figure("writes/s without protection", [of for of, _ in without], "")
    throughput = ratios(iops, [of for of, _ in without])
    report.figure("writes/s with, of those without", throughput, "")
    report.figure("p99 latency without protection", [of for _, of in without], "ms")
    latency = ratios(p99, [of for _, of in without])
    report.target("p99 latency with, of that without", latency, "", at_most=1.1, note="without writes that were held")
    bench.table.append((name, len(points), share, [cut["tries"] for cut in cuts], windows, holds, dirty, throughput, latency))


def markdown(table):
    """The table for docs/SPECIFICATION.md."""
    print("\n| load | points | optimistic / freeze / fuzzy | tries, median-most | window p50 / p99 / max, ms | held p50 / p99 / max, ms "
          "| dirty, MiB/s | writes/s, with of without | p99 latency, with of without |\n" + "| --- " * 9 + "|")
    for name, points, share, tries, windows, holds, dirty, throughput, latency in table:
        # What else a method may be called by now is a freeze.
        shares = [share.get("optimistic", 0), 0, share.get("fuzzy", 0)]
        shares[1] = 1 - shares[0] - shares[2]
        spread = [" / ".join(number(percentile(values, of)) for of in (50, 99, 100)) if values else "-"
                  for values in (windows, holds)]
        cells = [name, str(points), " / ".join(f"{100 * part:.0f} %" for part in shares),
                 f"{percentile(tries, 50)}-{max(tries)}", *spread, number(Figure(dirty, "").median()),
                 str(Figure(throughput, "")), str(Figure(latency, ""))]
        print("| " + " | ".join(cells) + " |")


class Bench:
    """What all loads share."""

    def __init__(self, args):
        self.programs = os.path.abspath(args.bin)
        self.pairs = args.pairs or (1 if args.quick else 3)
        self.seconds = args.seconds or (5 if args.quick else 20)
        self.scratch, self.memory = machine.scratch(args.dir), machine.scratch("/dev/shm")
        self.report, self.table = Report(about([])), []
        print(self.report.about)


def names(known):
    def parse(text):
        unknown = set(text.split(",")) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"no such one: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return text.split(",")
    return parse


def main():
    parser = argparse.ArgumentParser(prog="tests/perf/cuts")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--on", type=names(("ext4", "xfs", "btrfs", "raw")), default=["ext4"])
    parser.add_argument("--only", type=names(LOADS), default=list(LOADS))
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--dir", default="/var/tmp")
    parser.add_argument("--bin", required=True)
    args = parser.parse_args()
    if not machine.root():
        parser.error("needs root: it makes loop devices and file systems, and tracks them")
    bench, failed = Bench(args), False
    for kind in args.on:
        try:
            disk = Disk(bench, kind)
            for load in args.only:
                measure(bench, kind, disk, load)
        except (RuntimeError, OSError, subprocess.SubprocessError) as err:
            bench.report.missing(kind, f"FAILED: {err} {getattr(err, 'stderr', None) or ''}")
            failed = True
    bench.report.summary()
    markdown(bench.table)
    if args.json:
        bench.report.write(args.json)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
