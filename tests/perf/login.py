"""Instant recovery beside a full restore: from one command to a login prompt, with a real system whose disk has much more on it than a boot reads.

The machine is the image that `packaging/install-test-vm.sh` makes, with incompressible data behind its partitions. In each round it is booted from an
export through nbdkit, with an overlay that takes its writes; the same with all of its disk being copied meanwhile; and from an image that is restored
first. Nothing of the vault is in the page cache when a round's turn begins. QEMU emulates the processor, so the boot itself is slow, in all three alike.
Deliberately not here: a failover by the service.
"""

import json
import os
import shutil
import socket
import subprocess
import time

import machine
from agent import Agent
from exports import Serving
from report import ratios

MIB = 1 << 20
BASE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../target/vm/base.img")
PROMPT = b"login:"
LIMIT = 600


class Monitor:
    """QEMU's."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        wait_until(lambda: self.socket.connect_ex(path) == 0, "QEMU's monitor", 20)
        self.lines = self.socket.makefile("rw")
        self.lines.readline()
        self.tell(execute="qmp_capabilities")

    def tell(self, **what):
        print(json.dumps(what), file=self.lines, flush=True)
        return self.until(lambda said: "return" in said or "error" in said)

    def until(self, right):
        for line in self.lines:
            said = json.loads(line)
            if "error" in said or "error" in said.get("data", {}):
                raise RuntimeError(f"QEMU: {line}")
            if right(said):
                return said
        raise RuntimeError("QEMU has ended")


class Machine:
    """A machine that boots from an image, with the host's clock running."""

    def __init__(self, bench, image, kind):
        self.console = os.path.join(bench.scratch, "console")
        monitor = os.path.join(bench.scratch, "qmp")
        for old in (self.console, monitor):
            if os.path.exists(old):
                os.unlink(old)
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "pc", "-accel", "tcg,thread=multi",
             "-cpu", "max", "-smp", "2", "-m", "1024", "-device", "virtio-rng-pci", "-serial", f"file:{self.console}",
             "-qmp", f"unix:{monitor},server=on,wait=off",
             "-drive", f"file={image},if=virtio,id=disk,format={kind},discard=unmap"], stdin=subprocess.DEVNULL)
        machine.undo(self.stop)
        self.monitor = Monitor(monitor)

    def copy(self):
        self.monitor.tell(execute="block-stream", arguments={"device": "disk", "job-id": "copy"})

    def wait_for_copy(self):
        self.monitor.until(lambda said: said.get("event") == "BLOCK_JOB_COMPLETED")

    def wait_for_login(self):
        wait_until(self.is_up, "a login prompt", LIMIT)

    def is_up(self):
        if self.process.poll() is not None:
            raise RuntimeError("QEMU has ended")
        with open(self.console, "rb") as console:
            return PROMPT in console.read()

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def wait_until(condition, what, limit):
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {limit} s in vain for {what}")
        time.sleep(0.02)


def from_export(bench, vault, copying):
    """Seconds to the prompt, and to the whole disk."""
    overlay = os.path.join(bench.scratch, "overlay.qcow2")
    began = time.monotonic()
    serving = Serving(bench, vault)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", f"nbd+unix:///?socket={serving.socket}", "-F", "raw",
                    overlay], check=True)
    guest = Machine(bench, overlay, "qcow2")
    if copying:
        guest.copy()
    guest.wait_for_login()
    login = time.monotonic() - began
    if copying:
        guest.wait_for_copy()
    whole = time.monotonic() - began
    guest.stop()
    serving.stop()
    os.unlink(overlay)
    return login, whole


def from_restore(bench, agent):
    """Seconds to the prompt, and those of them that the restore took."""
    restored = os.path.join(bench.scratch, "restored")
    began = time.monotonic()
    agent.restore(restored)
    whole = time.monotonic() - began
    image = os.path.join(restored, os.listdir(restored)[0]) if os.path.isdir(restored) else restored
    guest = Machine(bench, image, "raw")
    guest.wait_for_login()
    login = time.monotonic() - began
    guest.stop()
    shutil.rmtree(restored) if os.path.isdir(restored) else os.unlink(restored)
    return login, whole


def login(bench):
    """From one command to a login prompt."""
    report, mib = bench.report, bench.login_mib
    report.section(f"to a login prompt, of a machine with {mib} MiB on its disk")
    if not os.path.exists(BASE):
        return report.missing("to a login prompt", "there is no machine (packaging/install-test-vm.sh)")
    disk = os.path.join(bench.scratch, "machine.img")
    shutil.copyfile(BASE, disk)
    subprocess.run(f"head -c {mib * MIB - os.path.getsize(disk)} /dev/urandom >> {disk}", shell=True, check=True)
    agent = Agent(bench.programs, bench.scratch, disk)
    agent.whole_run()
    os.unlink(disk)
    instant, copied, restored = [], [], []
    for _ in range(bench.runs):
        for times, boot in ((instant, lambda: from_export(bench, agent.vault, False)),
                            (copied, lambda: from_export(bench, agent.vault, True)),
                            (restored, lambda: from_restore(bench, agent))):
            machine.forget_files()
            times.append(boot())
    agent.forget()
    from_it, while_copied, after = ([at for at, _ in times] for times in (instant, copied, restored))
    report.figure("from an export", from_it, "s")
    report.figure("from an export, its disk being copied meanwhile", while_copied, "s")
    report.figure("all of it copied, while it runs", [whole for _, whole in copied], "s")
    report.figure("restored first", after, "s", f"the restore: {sum(whole for _, whole in restored) / len(restored):.1f} s")
    report.target("from an export, of that", ratios(from_it, after), "", at_most=1)
