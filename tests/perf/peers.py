"""The other programs: how each is set up, makes a backup and restores it. All of them read the disk as a plain file, keep
their repository on the same file system, and encrypt it, which ours does not.

A peer is looked for in the folders of $MOBILITY_PEERS, then on the PATH. One that is not there is said to be missing.
"""

import os
import shutil
import subprocess

import machine


class Peer:
    """One program with a repository of its own."""

    name = ""

    def __init__(self, parent):
        path = os.pathsep.join(filter(None, [os.environ.get("MOBILITY_PEERS"), os.environ.get("PATH")]))
        self.program = shutil.which(self.name, path=path)
        self.dir = os.path.join(parent, f"peer-{self.name}")
        self.repository = os.path.join(self.dir, "repository")
        self.backups = 0

    def version(self):
        said = subprocess.run([self.program, "version" if self.name == "restic" else "--version"], capture_output=True,
                              text=True)
        return said.stdout.split("\n")[0].strip()

    def env(self):
        secret = "a benchmark's"
        return {
            "RESTIC_PASSWORD": secret, "RESTIC_CACHE_DIR": os.path.join(self.dir, "cache"),
            "RUSTIC_PASSWORD": secret, "RUSTIC_NO_PROGRESS": "true",
            "BORG_PASSPHRASE": secret, "BORG_BASE_DIR": os.path.join(self.dir, "cache"),
            "XDG_CACHE_HOME": os.path.join(self.dir, "cache"), "XDG_CONFIG_HOME": os.path.join(self.dir, "config"),
        }

    def run(self, *arguments, cwd=None):
        return machine.run([self.program, *arguments], env=self.env(), cwd=cwd)

    def fresh(self):
        """An empty repository; making it is not measured."""
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)
        self.backups = 0
        self.run(*self.init_arguments())

    def backup(self, disk):
        """Makes a backup; returns what it took and the bytes it added."""
        before = machine.tree_size(self.repository)
        self.backups += 1
        done = self.run(*self.backup_arguments(disk))
        return done, machine.tree_size(self.repository) - before

    def restore(self, disk, to):
        os.makedirs(to)
        return self.run(*self.restore_arguments(disk, to), cwd=to)


class Restic(Peer):
    name = "restic"

    def init_arguments(self):
        return "-q", "-r", self.repository, "init"

    def backup_arguments(self, disk):
        return "-q", "-r", self.repository, "backup", disk

    def restore_arguments(self, disk, to):
        return "-q", "-r", self.repository, "restore", "latest", "--target", to


class Rustic(Peer):
    name = "rustic"

    def init_arguments(self):
        return "-r", self.repository, "init"

    def backup_arguments(self, disk):
        return "-r", self.repository, "backup", disk

    def restore_arguments(self, disk, to):
        return "-r", self.repository, "restore", f"latest:{disk}", os.path.join(to, os.path.basename(disk))


class Borg(Peer):
    name = "borg"

    def init_arguments(self):
        return "init", "-e", "repokey-blake2", self.repository

    def backup_arguments(self, disk):
        return "create", "-C", "zstd,1", f"{self.repository}::a{self.backups}", disk

    def restore_arguments(self, disk, to):
        return "extract", f"{self.repository}::a{self.backups}"


def all_peers(parent):
    return [peer(parent) for peer in (Restic, Rustic, Borg)]
