"""What is done to the machine while measuring, and undone again whatever happens: loop devices, pins, processes.

Runs programs and says what they took: wall time from start to exit, and the most memory that was resident.
"""

import atexit
import glob
import os
import shutil
import subprocess
import tempfile
import time

_undo = []


def undo(step, *args):
    """Calls `step` at the end of the run; those registered last go first."""
    _undo.append((step, args))


@atexit.register
def _undo_all():
    while _undo:
        step, args = _undo.pop()
        try:
            step(*args)
        except (OSError, subprocess.SubprocessError) as err:
            print(f"could not clean up: {err}")


def scratch(parent):
    """A directory for everything that is made, which goes at the end."""
    path = tempfile.mkdtemp(prefix="mobility-perf-", dir=parent)
    undo(shutil.rmtree, path, True)
    return path


def root():
    return os.geteuid() == 0


class Run:
    """A program that has ended."""

    def __init__(self, began, seconds, rss, cpu, stderr):
        self.began, self.seconds, self.rss, self.cpu, self.stderr = began, seconds, rss, cpu, stderr


def run(command, env=None, cwd=None, ok=(0,)):
    """Runs `command` and measures it. Its memory is that of the process, not of this one: it is started by vfork."""
    with tempfile.TemporaryFile() as said:
        began, start = time.time(), time.monotonic()
        process = subprocess.Popen(command, env={**os.environ, **(env or {})}, cwd=cwd, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        stderr = said.read().decode(errors="replace")
    if process.returncode not in ok:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{stderr[-2000:]}")
    return Run(began, seconds, usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime, stderr)


def loop(path):
    """A loop device over a file, which goes at the end. Direct I/O, or its own page cache would be measured."""
    made = subprocess.run(["losetup", "--direct-io=on", "--show", "-f", path], check=True, capture_output=True, text=True)
    device = made.stdout.strip()
    undo(subprocess.run, ["losetup", "-d", device])
    return device


def tree_size(path, apparent=True):
    """The bytes of all files below `path`."""
    sizes = (os.lstat(os.path.join(top, name)) for top, _, names in os.walk(path) for name in names)
    return sum(stat.st_size if apparent else stat.st_blocks * 512 for stat in sizes)


def warm(path):
    """Reads a file, so that those who read through the page cache find all of it there."""
    with open(path, "rb", buffering=0) as file:
        while file.read(4 << 20):
            pass


def settle():
    """Writes out what earlier runs left behind, so that nobody pays for another."""
    os.sync()


def forget_files():
    """Drops what the page cache holds, so that reading is reading again. As root."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def resident(pid):
    """Resident bytes of a process now and at most, and those of mapped BPF maps."""
    fields = {}
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            name, _, value = line.partition(":")
            if value.endswith("kB\n"):
                fields[name] = int(value.split()[0]) * 1024
    return fields["VmRSS"], fields["VmHWM"], bitmaps(pid)


def bitmaps(pid):
    """Resident bytes of what the tracker shares with the kernel."""
    total, inside = 0, False
    with open(f"/proc/{pid}/smaps") as maps:
        for line in maps:
            if "-" in line.split(" ")[0] and not line.split(" ")[0].endswith(":"):
                inside = "bpf-map" in line
            elif inside and line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
    return total


def cpu_seconds(pid):
    """What a process has taken of the processors."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bpf_cost(pid):
    """Runs and nanoseconds of all BPF programs that a process holds, from the kernel's statistics."""
    runs, nanoseconds, seen = 0, 0, set()
    for path in glob.glob(f"/proc/{pid}/fdinfo/*"):
        try:
            with open(path) as info:
                fields = dict(line.strip().split(":", 1) for line in info if ":" in line)
        except FileNotFoundError:
            continue
        program = fields.get("prog_id", "").strip()
        if "run_cnt" in fields and program not in seen:
            seen.add(program)
            runs += int(fields["run_cnt"])
            nanoseconds += int(fields["run_time_ns"])
    return runs, nanoseconds, len(seen)


def sysctl(name, value):
    """Sets a kernel parameter until the end of the run."""
    path = "/proc/sys/" + name.replace(".", "/")
    with open(path) as file:
        old = file.read().strip()

    def put(text):
        with open(path, "w") as file:
            file.write(text)

    undo(put, old)
    put(value)
    return put
