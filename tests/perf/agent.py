"""Runs our own programs: whole runs of the agent, an agent in the background, restores, and the stages alone."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from datetime import datetime

import machine

PINS = "/sys/fs/bpf/mobility-agent"
LINE = re.compile(r"^(?P<time>\S+Z)\s+\w+\s+(?P<text>.*)$")
WINDOW = re.compile(r"cut: Consistent window_us=(\d+)")
POINT = re.compile(r"recovery point \d+: (crash-consistent|fuzzy)")


class Agent:
    """The agent with a vault of its own, for one disk."""

    def __init__(self, programs, parent, disk):
        self.programs, self.disk = programs, disk
        self.dir = tempfile.mkdtemp(dir=parent)
        self.vault = os.path.join(self.dir, "vault")
        self.process = None
        machine.undo(self.forget)

    def command(self, *flags):
        return [os.path.join(self.programs, "mobility-agent"), "run", "--debug", "--vault", self.vault, "--disk", self.disk,
                "--runtime-dir", os.path.join(self.dir, "run"), *flags]

    def whole_run(self):
        """A run of its own: it brings the vault up to date, makes a point, and a last one before it ends. Its time is that
        from its start until the first of them is committed."""
        run = machine.run(self.command("--interval", "1h", "--for", "0s"), env={"MOBILITY_LOG": "debug"})
        run.seconds = next(at for at, text in lines(run.stderr) if POINT.search(text)) - run.began
        return run

    def start(self, interval="15s"):
        """Starts an agent in the background and waits until it has made a point."""
        self.log = os.path.join(self.dir, "log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self.command("--interval", interval), stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env={**os.environ, "MOBILITY_LOG": "debug"})
        self.wait_for_points(1)
        return self.process.pid

    def points(self):
        with open(self.log) as log:
            return pass_times(log.read())

    def wait_for_points(self, count, limit=3600):
        end = time.monotonic() + limit
        while len(self.points()) < count:
            if self.process.poll() is not None:
                with open(self.log) as log:
                    raise RuntimeError(f"the agent ended:\n{log.read()[-2000:]}")
            if time.monotonic() > end:
                raise RuntimeError(f"no recovery point within {limit} s")
            time.sleep(0.05)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def stored(self):
        """What lies in both storages; what the agent keeps for itself beside them is not part of it."""
        parts = [os.path.join(self.vault, part) for part in ("cache", "target")]
        return sum(machine.tree_size(part) for part in parts if os.path.isdir(part))

    def restore(self, to):
        return machine.run([os.path.join(self.programs, "recovery-service"), "restore", "--vault", self.vault,
                            "--point", "latest", "--output", to])

    def remove_tracker(self):
        """Removes what is pinned for this vault's machine; with it the kernel's programs go."""
        target = os.path.join(self.vault, "target")
        for name in os.listdir(target) if os.path.isdir(target) else []:
            shutil.rmtree(os.path.join(PINS, name), ignore_errors=True)

    def forget(self):
        self.stop()
        self.remove_tracker()
        shutil.rmtree(self.dir, ignore_errors=True)


def pass_times(log):
    """For each recovery point in a log, the seconds from the cut's beginning to the commit; nothing for a point without
    a cut of its own."""
    times, began = [], None
    for at, text in lines(log):
        if cut := WINDOW.search(text):
            began = at - int(cut[1]) / 1e6
        elif POINT.search(text):
            times.append(at - began if began else None)
            began = None
    return times


def lines(log):
    """The time and the text of each line that has both."""
    for line in log.splitlines():
        if parsed := LINE.match(line):
            yield datetime.fromisoformat(parsed["time"].replace("Z", "+00:00")).timestamp(), parsed["text"]


def stages(programs, *arguments):
    """What `perf_stages` measures."""
    tool = os.path.join(programs, "examples", "perf_stages")
    if not os.path.exists(tool):
        tool = os.path.join(programs, "perf_stages")
    done = subprocess.run([tool, *map(str, arguments)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)
