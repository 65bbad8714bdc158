"""Exports beside the image that they show: random reads through nbdkit, and the time to the first bytes."""

import json
import os
import signal
import ssl
import subprocess
import time
import urllib.request

import machine
from agent import Agent
from report import ratios

MIB = 1 << 20


class Serving:
    """`export serve` over a vault, with nbdkit in front of it."""

    def __init__(self, bench, vault):
        self.socket = os.path.join(bench.scratch, "export.sock")
        began = time.monotonic()
        self.export = subprocess.Popen([os.path.join(bench.programs, "recovery-service"), "export", "serve", "--json",
                                        "--vault", vault], stdout=subprocess.PIPE, text=True)
        said = ""
        while True:
            said += self.export.stdout.readline()
            try:
                shown = json.loads(said)
                break
            except json.JSONDecodeError:
                if self.export.poll() is not None:
                    raise RuntimeError("the export has ended")
        address = shown["disks"][0]["address"]
        trusted = ssl.create_default_context(cafile=shown["authority"])
        request = urllib.request.Request(address, headers={"Range": "bytes=0-4095"})
        with urllib.request.urlopen(request, context=trusted) as answer:
            if len(answer.read()) != 4096:
                raise RuntimeError("the first bytes are not there")
        self.first = time.monotonic() - began
        # As the runbook has it: what the service decodes at once is fetched at once, and what was read is kept in small pieces.
        self.nbdkit = subprocess.Popen(["nbdkit", "--foreground", "--readonly", "-U", self.socket,
                                        "--filter=cow", "--filter=cache", "curl", f"url={address}",
                                        f"cainfo={shown['authority']}", "cow-on-read=true", "cow-block-size=16K",
                                        "cache-on-read=true", "cache-min-block-size=1M"])
        while not os.path.exists(self.socket):
            time.sleep(0.01)

    def stop(self):
        for process in (self.nbdkit, self.export):
            process.send_signal(signal.SIGINT)
            process.wait()
        if os.path.exists(self.socket):
            os.unlink(self.socket)


def reads(bench, size, target, seconds=None):
    """Random reads of `size` bytes, one at a time, for so long: how many a second."""
    command = ["fio", "--name=reads", "--rw=randread", f"--bs={size}", "--iodepth=1", "--time_based", "--randrepeat=0",
               f"--runtime={seconds or bench.fio_seconds}", f"--size={bench.mib}m", "--output-format=json", *target]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]["read"]["iops"]


def exports(bench):
    """What an export costs against the image, one read at a time."""
    report = bench.report
    report.section(f"exports, random reads of {bench.mib} MiB, one at a time")
    agent = Agent(bench.programs, bench.scratch, bench.image)
    agent.whole_run()
    firsts, whole = [], []
    for size in (4096, 65536):
        local, cold, minute, warm = [], [], [], []
        for _ in range(bench.runs):
            machine.settle()
            local.append(reads(bench, size, ["--ioengine=psync", "--direct=1", "--readonly", f"--filename={bench.image}"]))
            serving = Serving(bench, agent.vault)
            firsts.append(serving.first)
            export = ["--ioengine=nbd", f"--uri=nbd+unix:///?socket={serving.socket}"]
            cold.append(reads(bench, size, export))
            whole.append(bench.mib / machine.run(["nbdcopy", export[1].removeprefix("--uri="), "null:"]).seconds)
            warm.append(reads(bench, size, export))
            serving.stop()
            serving = Serving(bench, agent.vault)
            minute.append(reads(bench, size, export, bench.minute_seconds))
            serving.stop()
        kib = size >> 10
        report.figure(f"{kib} KiB: the image, past the page cache", local, "/s")
        report.figure(f"{kib} KiB: the export, from nothing", cold, "/s")
        report.target(f"{kib} KiB: from nothing, of the image", ratios(cold, local), "", at_least=0.5)
        report.figure(f"{kib} KiB: the export, from nothing, over a minute", minute, "/s")
        report.target(f"{kib} KiB: over a minute, of the image", ratios(minute, local), "", at_least=0.5)
        report.figure(f"{kib} KiB: the export, what was read before", warm, "/s")
        report.target(f"{kib} KiB: what was read before, of the image", ratios(warm, local), "", at_least=0.5)
    report.figure("the rest of it, in order", whole, "MiB/s")
    report.figure("from the start of `export serve` to the first 4 KiB", firsts, "s")
    agent.forget()
