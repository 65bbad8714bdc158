"""Runs our own programs: whole runs of the agent, an agent in the background, restores, and the stages alone."""

import glob
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
POINT = re.compile(r"recovery point (?P<epoch>\d+): (crash-consistent|fuzzy)")


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
        """When each recovery point was committed, by its epoch, oldest first."""
        with open(self.log) as log:
            return point_times(log.read())

    def wait_for_points(self, count, limit=3600):
        self.wait_until(lambda: len(self.points()) >= count, f"{count} recovery points", limit)

    def pass_of(self, change, tries=5):
        """Runs `change`, which writes to the disk, and returns the seconds that the point with it took: from when its cycle
        began, which is when it was due, to its commit. No line of the log marks that beginning, but the state file says
        beforehand when it will be."""
        for _ in range(tries):
            self.wait_for_points(len(self.points()) + 1)
            made = self.points()
            change()
            changed = time.time()
            due = self.next_point(max(made))
            if changed < due:
                self.wait_for_points(len(made) + 1)
                return list(self.points().values())[len(made)] - due
            # Another point was being made meanwhile, and has a part of the change.
        raise RuntimeError(f"{tries} times a point came while the disk was being written to; the interval is too short")

    def next_point(self, after):
        """When the point that follows the one of epoch `after` is due; the state file is replaced each second."""
        states = []

        def known():
            states[:] = [state for state in map(read_state, glob.glob(os.path.join(self.dir, "run", "*.json"))) if state]
            return states and states[0]["last_point"] and states[0]["last_point"]["epoch"] >= after

        self.wait_until(known, f"the state after point {after}", 60)
        return timestamp(states[0]["next_point"])

    def wait_until(self, condition, what, limit):
        end = time.monotonic() + limit
        while not condition():
            if self.process.poll() is not None:
                with open(self.log) as log:
                    raise RuntimeError(f"the agent ended:\n{log.read()[-2000:]}")
            if time.monotonic() > end:
                raise RuntimeError(f"waited {limit} s in vain for {what}")
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
                            "--point", "latest", "--verify=no", "--output", to])

    def remove_tracker(self):
        """Removes what is pinned for this vault's machine; with it the kernel's programs go."""
        target = os.path.join(self.vault, "target")
        for name in os.listdir(target) if os.path.isdir(target) else []:
            shutil.rmtree(os.path.join(PINS, name), ignore_errors=True)

    def forget(self):
        self.stop()
        self.remove_tracker()
        shutil.rmtree(self.dir, ignore_errors=True)


def point_times(log):
    """When each recovery point in a log was committed, by its epoch."""
    found = ((POINT.search(text), at) for at, text in lines(log))
    return {int(point["epoch"]): at for point, at in found if point}


def read_state(path):
    """A state file; nothing while it is being exchanged."""
    try:
        with open(path) as file:
            return json.load(file)
    except (FileNotFoundError, ValueError):
        return None


def timestamp(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def lines(log):
    """The time and the text of each line that has both."""
    for line in log.splitlines():
        if parsed := LINE.match(line):
            yield timestamp(parsed["time"]), parsed["text"]


def stages(programs, *arguments):
    """What `perf_stages` measures."""
    tool = os.path.join(programs, "examples", "perf_stages")
    if not os.path.exists(tool):
        tool = os.path.join(programs, "perf_stages")
    done = subprocess.run([tool, *map(str, arguments)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)
