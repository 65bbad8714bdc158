"""The RPO of one agent under steady churn; started by `rpo` beside it, which explains the flags.

A real service over TLS on the loopback, a real agent with a tracked loop device, fio's random writes at a rate. Ten times a second it is looked at which
point is the newest in target storage; when its `t0` was, it says itself. RPO is the time from there to the moment of the look: it grows from one
point's intake to the next one's. So it is the interval, and what lies between a cut and its intake; both are shown, to see which one is too much.

With `--failovers` all of it is measured once more while one test failover follows the other, and the two are compared: a test must not be felt by the
machine. Deliberately not here: many agents.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time

import machine
from agent import PINS, timestamp

DISK_MIB = 1024
LOOK = 0.1
TARGET = 7.0


class Service:
    """A service with everything in a directory of its own."""

    def __init__(self, programs, parent, shelf):
        self.program = os.path.join(programs, "recovery-service")
        self.data = os.path.join(parent, "service")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"https://127.0.0.1:{self.port}"
        config = os.path.join(parent, "service.toml")
        with open(config, "w") as file:
            file.write(f"[failover.shelf]\nkind = 'images'\ndirectory = '{shelf}'\n")
        with open(os.path.join(parent, "service.log"), "wb") as log:
            self.process = subprocess.Popen(
                [self.program, "serve", "--data", self.data, "--config", config, "--listen", f"127.0.0.1:{self.port}",
                 "--address", self.address], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        machine.undo(end, self.process)
        if not self.process.stdout.readline():
            raise RuntimeError("the service ended at its start")

    def admin(self, *arguments):
        done = subprocess.run([self.program, *arguments, "--json", "--service", self.data], check=True, capture_output=True,
                              text=True)
        return json.loads(done.stdout)

    def epochs(self):
        """The epochs of all points in target storage."""
        target = os.path.join(self.data, "storage", "target")
        for name in os.listdir(target) if os.path.isdir(target) else []:
            points = os.path.join(target, name, "points")
            if os.path.isdir(points):
                return {int(name.removesuffix(".point")) for name in os.listdir(points) if name.endswith(".point")}
        return set()

    def instants(self):
        """The `t0` of each consistent point, by its epoch."""
        vault = os.path.join(self.data, "storage")
        done = subprocess.run([self.program, "points", "--json", "--vault", vault], check=True, capture_output=True, text=True)
        points = json.loads(done.stdout)["points"]
        return {point["epoch"]: timestamp(point["cut"]["t0"]) for point in points if point["consistency"] != "fuzzy"}


def end(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def protect(bench, service, device):
    """Enrols this machine, and starts its agent."""
    agent = os.path.join(bench.bin, "mobility-agent")
    state = os.path.join(bench.scratch, "state")
    made = service.admin("token", "create")
    token = os.path.join(bench.scratch, "token")
    with open(token, "w") as file:
        file.write(made["token"])
    subprocess.run([agent, "enroll", "--service", service.address, "--ca-fingerprint", made["ca_fingerprint"], "--token-file",
                    token, "--state-dir", state], check=True, stdout=subprocess.DEVNULL)
    with open(os.path.join(bench.scratch, "agent.log"), "wb") as log:
        process = subprocess.Popen([agent, "run", "--state-dir", state, "--disk", device, "--runtime-dir",
                                    os.path.join(bench.scratch, "run")], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   preexec_fn=bench.on_the_machine)
    machine.undo(forget, service)
    machine.undo(end, process)
    return process


def forget(service):
    for known in service.admin("machine", "list")["machines"]:
        shutil.rmtree(os.path.join(PINS, known["id"]), ignore_errors=True)


def churn(bench, device):
    """Writes at the rate until it is ended."""
    command = ["fio", "--name=churn", f"--filename={device}", "--rw=randwrite", "--bs=16k", "--direct=1", "--ioengine=libaio",
               "--iodepth=4", "--norandommap", "--randseed=7", f"--rate={bench.rate * 1000000}", "--rate_process=linear",
               "--time_based", f"--runtime={bench.seconds + 600}", f"--size={DISK_MIB}M", "--refill_buffers",
               "--buffer_compress_percentage=50", "--output-format=json"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                               preexec_fn=bench.on_the_machine)
    machine.undo(end, process)
    return process


class Failovers:
    """Test failovers, one after the other, until it is ended."""

    def __init__(self, service):
        self.service, self.took, self.problem, self.over = service, [], None, threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        name = self.service.admin("machine", "list")["machines"][0]["id"]
        try:
            while not self.over.is_set():
                begun = self.service.admin("failover", "start", name, "--kind", "test", "--wait")
                self.took.append(begun["took_ms"] / 1e3)
                self.service.admin("failover", "cleanup", begun["id"], "--wait")
        except (subprocess.CalledProcessError, KeyError, TypeError) as problem:
            self.problem = problem

    def end(self):
        self.over.set()
        self.thread.join()
        if self.problem or not self.took:
            raise RuntimeError(f"test failovers went wrong: {self.problem}")
        return self.took


def wait_for(what, condition, processes, limit=600):
    until = time.monotonic() + limit
    while not condition():
        if time.monotonic() > until or any(process.poll() is not None for process in processes):
            raise RuntimeError(f"waited in vain for {what}")
        time.sleep(LOOK)


def look(service, seconds, processes):
    """When each look was, and which point was the newest; and when each point was first seen."""
    looks, seen, begin = [], {}, time.monotonic()
    known = service.epochs()
    while (passed := time.monotonic() - begin) < seconds:
        epochs, now = service.epochs(), time.time()
        for epoch in epochs - known:
            seen[epoch] = now
        known = epochs
        looks.append((now, max(epochs)))
        if any(process.poll() is not None for process in processes):
            raise RuntimeError("something ended while it was measured")
        time.sleep(max(0.0, LOOK * (len(looks)) - passed))
    return looks, seen


def apart():
    """Keeps this process and what it starts, the service with its failovers, on the last processor. Returns what has a child run on the
    others, as on another host."""
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        raise RuntimeError("--apart needs two processors")
    os.sched_setaffinity(0, processors[-1:])
    return lambda: os.sched_setaffinity(0, processors[:-1])


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def spread(values):
    return {"p50": percentile(values, 50), "p99": percentile(values, 99), "max": max(values), "count": len(values)}


def judge(looks, seen, instants):
    """The figures. A fuzzy point is none: the one before it goes on to count."""
    of = {}
    for _, epoch in looks:
        of.setdefault(epoch, max((known for known in instants if known <= epoch), default=None))
    rpo = [now - instants[of[epoch]] for now, epoch in looks if of[epoch] is not None]
    lags = [at - instants[epoch] for epoch, at in seen.items() if epoch in instants]
    within = sorted(instants[epoch] for epoch in seen if epoch in instants)
    gaps = [later - earlier for earlier, later in zip(within, within[1:])]
    if not lags or not gaps:
        raise RuntimeError("too few points were made")
    return {"rpo": spread(rpo), "from t0 to the intake": spread(lags), "from t0 to t0": spread(gaps),
            "not consistent": sum(epoch not in instants for epoch in seen)}


def main():
    parser = argparse.ArgumentParser(prog="tests/perf/rpo")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--rate", type=int)
    parser.add_argument("--interval", type=int)
    parser.add_argument("--failovers", action="store_true")
    parser.add_argument("--shelf", metavar="DIR")
    parser.add_argument("--apart", metavar="DIR")
    parser.add_argument("--dir", default="/var/tmp")
    parser.add_argument("--bin", required=True)
    bench = parser.parse_args()
    bench.seconds = bench.seconds or (30 if bench.quick else 120)
    bench.rate = bench.rate or (4 if bench.quick else 20)
    bench.interval = bench.interval or (2 if bench.quick else 5)
    bench.bin = os.path.abspath(bench.bin)
    bench.on_the_machine = apart() if bench.apart else None
    bench.scratch = machine.scratch(bench.dir)
    path = os.path.join(bench.scratch, "disk.img")
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, DISK_MIB << 20)
    device = machine.loop(path)
    theirs = machine.scratch(bench.apart) if bench.apart else bench.scratch
    service = Service(bench.bin, theirs, machine.scratch(bench.shelf or theirs))
    service.admin("policy", "set", "default", "--interval", str(bench.interval))
    agent = protect(bench, service, device)
    running = [service.process, agent]
    wait_for("the first point", service.epochs, running)
    figures = {"alone": phase(bench, service, device, running)}
    tell("alone", figures["alone"])
    print(f"target: p99 of the RPO at most {TARGET:.0f} s: {'met' if figures['alone']['rpo']['p99'] <= TARGET else 'MISSED'}")
    if bench.failovers:
        failovers = Failovers(service)
        figures["beside test failovers"] = phase(bench, service, device, running)
        figures["failovers"] = spread(failovers.end())
        tell("beside test failovers", figures["beside test failovers"])
        print(f"test failovers: {figures['failovers']['count']}, median {figures['failovers']['p50']:.1f} s")
    if bench.json:
        with open(bench.json, "w") as file:
            json.dump(figures, file, indent=1)
    return 0


def phase(bench, service, device, running):
    """The figures of one load from its beginning to its end."""
    fio = churn(bench, device)
    running = [*running, fio]
    first = max(service.epochs())
    wait_for("points under load", lambda: max(service.epochs()) >= first + 3, running)
    looks, seen = look(service, bench.seconds, running)
    fio.terminate()
    written = json.loads((said := fio.communicate()[0])[said.index("{"):])["jobs"][0]["write"]
    figures = judge(looks, seen, service.instants())
    figures["written, MB/s"] = written["bw_bytes"] / 1e6
    of = {name: written["clat_ns"]["percentile"][f"{percent:.6f}"] / 1e6 for name, percent in (("p50", 50), ("p99", 99))}
    figures["a write, ms"] = {**of, "max": written["clat_ns"]["max"] / 1e6, "count": written["total_ios"]}
    return figures


def tell(when, figures):
    print(f"{when}: {figures['written, MB/s']:.1f} MB/s written")
    for name in ("rpo", "from t0 to the intake", "from t0 to t0", "a write, ms"):
        values = figures[name]
        unit = "" if name.endswith("ms") else ", s"
        print(f"{name + unit:26} p50 {values['p50']:6.2f}   p99 {values['p99']:6.2f}   max {values['max']:6.2f}   of {values['count']}")
    print(f"points that were not consistent: {figures['not consistent']}")


if __name__ == "__main__":
    sys.exit(main())
