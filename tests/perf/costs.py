"""What protection costs a machine: the tracker for each write, and an agent that has nothing to do.

Deliberately not here: replication and restore (`jobs`).
"""

import json
import os
import subprocess
import time

import machine
from agent import Agent
from report import ratios

MIB = 1 << 20
# Of each program, so that one catches what another misses while it is interrupted.
COPIES = 2


def tracker(bench):
    """Random writes with and without a tracker, in turns; and what the kernel says that the programs took."""
    report = bench.report
    report.section("the tracker's cost")
    if not machine.root():
        return report.missing("time for an event", "needs root")
    if subprocess.run(["which", "fio"], capture_output=True).returncode != 0:
        return report.missing("time for an event", "fio is not installed")
    for name, parent in (("disk on a file", bench.scratch), ("disk in memory", "/dev/shm")):
        path = os.path.join(parent, f"mobility-perf-{os.getpid()}.img")
        machine.undo(lambda path=path: os.path.exists(path) and os.unlink(path))
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, bench.mib * MIB)
        try:
            device = machine.loop(path)
        except subprocess.CalledProcessError as err:
            report.missing(name, f"no loop device with direct I/O: {err.stderr.strip()}")
            continue
        costs_of(bench, name, device)


def costs_of(bench, name, device):
    report = bench.report
    with_tracker, without = [], []
    fio(bench, device)
    for pair in range(bench.pairs):
        # The later of a pair may find a device warmed up, or worn: take turns.
        for tracked in (True, False) if pair % 2 else (False, True):
            if tracked:
                agent = Agent(bench.programs, bench.scratch, device)
                agent.start("1h")
                with_tracker.append(fio(bench, device))
                agent.forget()
            else:
                without.append(fio(bench, device))
    report.figure(f"{name}: writes/s without a tracker", without, "IOPS", "fio randwrite 4k, 2 jobs of depth 16")
    report.figure(f"{name}: writes/s with a tracker and an idle agent", with_tracker, "IOPS")
    report.target(f"{name}: writes/s with, of those without", ratios(with_tracker, without), "", at_least=0.98)
    event_rows(bench, name, device)


def event_rows(bench, name, device):
    agent = Agent(bench.programs, bench.scratch, device)
    pid = agent.start("1h")
    switch = machine.sysctl("kernel.bpf_stats_enabled", "1")
    an_event, a_write = [], []
    for _ in range(bench.runs):
        runs, nanoseconds, programs = machine.bpf_cost(pid)
        writes = fio(bench, device, whole=True)
        runs_after, nanoseconds_after, _ = machine.bpf_cost(pid)
        spent = nanoseconds_after - nanoseconds
        # Each event runs every copy of its program.
        an_event.append(COPIES * spent / max(runs_after - runs, 1))
        a_write.append(spent / writes)
    switch("0")
    agent.forget()
    report = bench.report
    report.target(f"{name}: an event, all copies of its program", an_event, "ns", at_most=200,
                  note=f"{programs} programs; the statistics cost some of it")
    report.figure(f"{name}: all programs together, for each write", a_write, "ns", "issue and completion, of all disks")


def fio(bench, device, whole=False):
    """Random writes; how many each second, or how many in all."""
    done = subprocess.run(
        ["fio", "--name=w", f"--filename={device}", "--rw=randwrite", "--bs=4k", "--direct=1", "--ioengine=libaio",
         "--iodepth=16", "--numjobs=2", "--group_reporting", "--time_based", f"--runtime={bench.fio_seconds}",
         "--norandommap", "--randseed=7", "--output-format=json"], check=True, capture_output=True, text=True)
    write = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]["write"]
    return write["total_ios"] if whole else write["iops"]


def footprint(bench):
    """An agent that has made its first point and then finds nothing to do."""
    report = bench.report
    report.section(f"footprint, {bench.idle_seconds} s without a change, a point every 15 s")
    if machine.root():
        idle(bench, f"tracker, {bench.large_gib} GiB sparse", bench.large_device())
        if bench.tib:
            idle(bench, "tracker, 1 TiB sparse", machine.loop(sparse(bench, "tib.img", 1 << 40)))
        else:
            report.missing("tracker, 1 TiB sparse", "reads a whole TiB; asked for with --tib")
    else:
        report.missing("with a tracker", "needs root")
    size, name = (8 << 30, "8 GiB") if bench.quick else (1 << 40, "1 TiB")
    idle(bench, f"scan, {name} sparse file", sparse(bench, "sparse.img", size), is_target=False)


def sparse(bench, name, size):
    path = os.path.join(bench.scratch, name)
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def idle(bench, name, disk, is_target=True):
    report, agent = bench.report, Agent(bench.programs, bench.scratch, disk)
    start = time.monotonic()
    pid = agent.start("15s")
    report.figure(f"{name}: until the first point", [time.monotonic() - start], "s")
    before, start = machine.cpu_seconds(pid), time.monotonic()
    time.sleep(bench.idle_seconds)
    percent = 100 * (machine.cpu_seconds(pid) - before) / (time.monotonic() - start)
    now, most, bitmaps = machine.resident(pid)
    agent.forget()
    report.figure(f"{name}: bitmaps", [bitmaps / MIB], "MiB")
    report.target(f"{name}: resident beside them, at most", [(most - bitmaps) / MIB], "MiB", at_most=64)
    report.figure(f"{name}: resident beside them, when idle", [(now - bitmaps) / MIB], "MiB")
    if is_target:
        report.target(f"{name}: of one processor", [percent], "%", at_most=0.5)
    else:
        report.figure(f"{name}: of one processor", [percent], "%", "it compares the disk for every point")
