"""Figures, targets and the table that shows both.

A figure is measured several times and shown as median (least to most). A ratio is taken within each round, where both
sides ran right after each other, and then the median of the ratios: the machine may be slower in one round than in another.
"""

import json
import platform
import statistics
import subprocess
from datetime import datetime, timezone


class Figure:
    """What was measured, round by round."""

    def __init__(self, values, unit):
        self.values, self.unit = list(values), unit

    def median(self):
        return statistics.median(self.values)

    def __str__(self):
        shown = [number(value) for value in (self.median(), min(self.values), max(self.values))]
        unit = f" {self.unit}" if self.unit else ""
        return shown[0] + unit if len(self.values) == 1 else f"{shown[0]} ({shown[1]}-{shown[2]}){unit}"


def number(value):
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


class Report:
    """The table as it grows; rows are printed as they come, for a run takes long."""

    def __init__(self, about):
        self.about, self.rows, self.job = about, [], ""

    def section(self, job):
        self.job = job
        print(f"\n== {job}", flush=True)

    def figure(self, name, values, unit, note=""):
        self.add(name, Figure(values, unit), "", None, note)

    def target(self, name, values, unit, at_most=None, at_least=None, note=""):
        """A figure that has to be on one side of a bound; its median counts."""
        figure = Figure(values, unit)
        met = figure.median() <= at_most if at_least is None else figure.median() >= at_least
        bound = f"<= {number(at_most)}" if at_least is None else f">= {number(at_least)}"
        self.add(name, figure, bound, met, note)

    def missing(self, name, why):
        self.rows.append({"job": self.job, "name": name, "missing": why})
        print(f"  {name:<58} not measured: {why}", flush=True)

    def add(self, name, figure, bound, met, note):
        verdict = {None: "", True: "met", False: "MISSED"}[met]
        self.rows.append({"job": self.job, "name": name, "median": figure.median(), "values": figure.values,
                          "unit": figure.unit, "target": bound, "met": met, "note": note})
        line = f"  {name:<58} {str(figure):<28} {bound:<9} {verdict:<7} {note}"
        print(line.rstrip(), flush=True)

    def write(self, path):
        with open(path, "w") as file:
            json.dump({"about": self.about, "rows": self.rows}, file, indent=1)

    def summary(self):
        judged = [row for row in self.rows if row.get("met") is not None]
        met = sum(row["met"] for row in judged)
        absent = sum("missing" in row for row in self.rows)
        print(f"\n{met} of {len(judged)} targets met; {absent} rows not measured")


def ratios(above, below):
    """Round by round."""
    return [a / b for a, b in zip(above, below)]


def about(peers):
    """The machine, and what was measured with."""
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) // (1 << 20)
    described = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processors": f"{len(models)} x {models[0] if models else platform.machine()}",
        "memory": f"{memory} GiB",
        "kernel": platform.release(),
        "fio": first_line(["fio", "--version"]),
        "peers": {peer.name: peer.version() for peer in peers if peer.program},
    }
    with open("/proc/loadavg") as file:
        described["load"] = file.read().split()[0]
    return described


def first_line(command):
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[0]
    except FileNotFoundError:
        return "missing"
