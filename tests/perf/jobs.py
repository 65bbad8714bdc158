"""Initial replication, a pass over changed blocks, and restore: ours and the others', one after the other in each round.

Deliberately not here: what the kernel's part and an idle agent cost (`costs`).
"""

import filecmp
import os
import shutil

import image
import machine
from agent import Agent, stages
from report import ratios

MIB = image.MIB


def seconds(runs):
    return [run.seconds for run in runs]


def initial(bench):
    """All of a disk into an empty vault."""
    report = bench.report
    report.section(f"initial replication of the {bench.mib} MiB image")
    disks = [("scan of a file", bench.image)]
    if machine.root():
        disks.insert(0, ("tracker, loop device", bench.device()))
    else:
        report.missing("with a tracker", "needs root")
    ours = {name: [] for name, _ in disks}
    alone = {name: [] for name, _ in disks}
    stored = {name: [] for name, _ in disks}
    peers = {peer: [] for peer in bench.peers}
    peers_stored = {peer: [] for peer in bench.peers}
    for _ in range(bench.runs):
        for name, disk in disks:
            machine.settle()
            alone[name].append(stages(bench.programs, "stages", disk, bench.scratch))
            machine.settle()
            agent = Agent(bench.programs, bench.scratch, disk)
            ours[name].append(agent.whole_run())
            stored[name].append(agent.stored())
            agent.forget()
        for peer in bench.peers:
            machine.settle()
            peer.fresh()
            machine.warm(bench.image)
            run, added = peer.backup(bench.image)
            peers[peer].append(run)
            peers_stored[peer].append(added)
    for name, _ in disks:
        whole = seconds(ours[name])
        report.figure(f"{name}: from start to recovery point", whole, "s",
                      f"processors {mean_cpu(ours[name]):.2f} s until the end")
        stage_rows(report, name, alone[name], whole)
        report.target(f"{name}: resident memory", [run.rss / MIB for run in ours[name]], "MiB", at_most=64,
                      note="bitmaps included")
    compare(report, "tracker, loop device" if machine.root() else "scan of a file", ours, stored, peers, peers_stored)


def mean_cpu(runs):
    return sum(run.cpu for run in runs) / len(runs)


STAGES = ("read", "hash", "encode", "write")


def stage_rows(report, name, alone, whole):
    for stage in STAGES:
        report.figure(f"{name}: {stage} alone", [round_[stage] for round_ in alone], "s")
    slowest = [max(round_[stage] for stage in STAGES) for round_ in alone]
    which = {max(STAGES, key=lambda stage: round_[stage]) for round_ in alone}
    report.target(f"{name}: of the slowest stage's speed", ratios(slowest, whole), "", at_least=0.8,
                  note="slowest: " + ", ".join(sorted(which)))


def compare(report, name, ours, stored, peers, peers_stored):
    report.figure(f"{name}: stored", [size / MIB for size in stored[name]], "MiB")
    for peer, runs in peers.items():
        report.figure(f"{peer.name}: whole run", seconds(runs), "s", f"processors {mean_cpu(runs):.2f} s")
        report.figure(f"{peer.name}: stored", [size / MIB for size in peers_stored[peer]], "MiB")
    if not peers:
        return report.missing("against peers", "none was asked for (--peers), or none is there")
    rounds = range(len(ours[name]))
    fastest = [min(runs[i].seconds for runs in peers.values()) for i in rounds]
    smallest = [min(sizes[i] for sizes in peers_stored.values()) for i in rounds]
    report.target(f"{name}: times as fast as the fastest peer", ratios(fastest, seconds(ours[name])), "", at_least=2)
    report.target(f"{name}: stored, of the smallest peer", ratios(stored[name], smallest), "", at_most=1.05)


def delta(bench):
    """A recovery point after 1 % of the image's blocks were overwritten, by tracker and by scan."""
    report = bench.report
    report.section(f"a pass after {bench.changes} random writes of 4 KiB")
    if machine.root():
        tracked(bench, "tracker", bench.device(), bench.mib * MIB)
        tracked(bench, f"tracker, {bench.large_gib} GiB sparse", bench.large_device(), bench.large_gib << 30)
    else:
        report.missing("with a tracker", "needs root")
    by_scan(bench)
    peers_delta(bench)


def compressed(bench, written):
    path = os.path.join(bench.scratch, "written")
    with open(path, "wb") as file:
        file.write(written)
    return stages(bench.programs, "compressed", path)["compressed"]


def tracked(bench, name, device, size):
    """Each round twice: by an agent that starts, makes its point and ends, and by one that was running."""
    report, agent = bench.report, Agent(bench.programs, bench.scratch, device)
    first = agent.whole_run()
    report.figure(f"{name}: initial replication", [first.seconds], "s")
    whole, stored = [], []
    for round_ in range(bench.runs):
        written = image.change(device, size, bench.changes, 42 + round_)
        machine.settle()
        before = agent.stored()
        whole.append(agent.whole_run())
        stored.append((agent.stored() - before) / compressed(bench, written))
    report.figure(f"{name}: from the start of an agent to its point", seconds(whole), "s")
    report.target(f"{name}: stored, of the changed blocks compressed", stored, "", at_most=1.15,
                  note="with a second, empty point")
    agent.start("3s")
    passes = [agent.pass_of(lambda seed=142 + round_: image.change(device, size, bench.changes, seed))
              for round_ in range(bench.runs)]
    agent.forget()
    report.target(f"{name}: pass of a running agent", passes, "s", at_most=0.3, note="from the first drain to the commit")
    bench.passes.append(passes)
    if len(bench.passes) == 2:
        report.figure("the same on the large disk, of the small one's", ratios(*reversed(bench.passes)), "",
                      "flat: about 1")


def by_scan(bench):
    report = bench.report
    agent = Agent(bench.programs, bench.scratch, bench.image)
    agent.whole_run()
    whole, stored, limit = [], [], []
    for round_ in range(bench.runs):
        written = image.change(bench.image, bench.mib * MIB, bench.changes, 242 + round_)
        machine.settle()
        alone = stages(bench.programs, "stages", bench.image, bench.scratch)
        before = agent.stored()
        run = agent.whole_run()
        whole.append(run)
        stored.append((agent.stored() - before) / compressed(bench, written))
        # The disk is compared twice: to find what differs, and to see that nothing changed meanwhile.
        limit.append(2 * max(alone["read"], alone["block_hash"]) / run.seconds)
    agent.forget()
    report.figure("scan: from the start of an agent to its point", seconds(whole), "s", "reads the disk twice")
    report.target("scan: of the speed of reading (or hashing) alone", limit, "", at_least=0.8)
    report.target("scan: stored, of the changed blocks compressed", stored, "", at_most=1.15)


def peers_delta(bench):
    report = bench.report
    for peer in bench.peers:
        peer.fresh()
        peer.backup(bench.image)
    runs = {peer: [] for peer in bench.peers}
    stored = {peer: [] for peer in bench.peers}
    for round_ in range(bench.runs):
        written = image.change(bench.image, bench.mib * MIB, bench.changes, 342 + round_)
        least = compressed(bench, written)
        for peer in bench.peers:
            machine.settle()
            machine.warm(bench.image)
            run, added = peer.backup(bench.image)
            runs[peer].append(run)
            stored[peer].append(added / least)
    for peer in bench.peers:
        report.figure(f"{peer.name}: whole run", seconds(runs[peer]), "s")
        report.figure(f"{peer.name}: stored, of the changed blocks compressed", stored[peer], "")


def restore(bench):
    """The newest point into a new image, which is then compared with the disk."""
    report = bench.report
    report.section(f"restore of the newest of a few points, {bench.mib} MiB")
    agent = Agent(bench.programs, bench.scratch, bench.image)
    agent.whole_run()
    for peer in bench.peers:
        peer.fresh()
        peer.backup(bench.image)
    for round_ in range(2):
        image.change(bench.image, bench.mib * MIB, bench.changes, 442 + round_)
        agent.whole_run()
        for peer in bench.peers:
            peer.backup(bench.image)
    ours, theirs = [], {peer: [] for peer in bench.peers}
    for _ in range(bench.runs):
        ours.append(restored(bench, agent.restore))
        for peer in bench.peers:
            theirs[peer].append(restored(bench, lambda to, peer=peer: peer.restore(bench.image, to)))
    in_formats(bench, agent)
    agent.forget()
    report.figure("restore", seconds(ours), "s", f"processors {mean_cpu(ours):.2f} s; synced to disk")
    report.target("restore: resident memory", [run.rss / MIB for run in ours], "MiB", at_most=64)
    for peer, runs in theirs.items():
        report.figure(f"{peer.name}", seconds(runs), "s", f"processors {mean_cpu(runs):.2f} s")
        report.figure(f"{peer.name}: resident memory", [run.rss / MIB for run in runs], "MiB")
    if theirs:
        fastest = [min(runs[i].seconds for runs in theirs.values()) for i in range(bench.runs)]
        report.target("restore: times as fast as the fastest peer", ratios(fastest, seconds(ours)), "", at_least=1)
    else:
        report.missing("against peers", "none was asked for (--peers), or none is there")


def in_formats(bench, agent):
    """Restoring in each format, beside the slowest of its stages alone in the same run."""
    parts = []
    for _ in range(bench.runs):
        machine.settle()
        parts.append(stages(bench.programs, "restore", agent.vault, bench.scratch))
    for stage in ("fill", "hash", "write", "check"):
        bench.report.figure(f"restore: {stage} alone", [part[stage] for part in parts], "s")
    for number, whole in enumerate(parts[0]["whole"]):
        runs = [part["whole"][number] for part in parts]
        name = whole["format"]
        bench.report.target(f"restore to {name}: of the slowest stage's speed", [run["of_slowest"] for run in runs], "",
                            at_least=0.8)
        bench.report.figure(f"restore to {name}: reading it back costs", [run["check_costs"] for run in runs], "s")


def restored(bench, restore_to):
    to = os.path.join(bench.scratch, "restored")
    shutil.rmtree(to, ignore_errors=True)
    machine.settle()
    run = restore_to(to)
    found = [os.path.join(top, name) for top, _, names in os.walk(to) for name in names]
    if len(found) != 1 or not filecmp.cmp(found[0], bench.image, shallow=False):
        raise RuntimeError(f"what was restored is not what the disk held: {found}")
    shutil.rmtree(to)
    return run
