"""Finds the processes of jobs in /proc, as on Linux."""

import os
from pathlib import Path


def children(parent=None):
    """loky's workers that a process started; by default this one."""
    return [pid for pid, words, stat in _processes() if int(stat[1]) == (parent or os.getpid()) and _is_worker(words)]


def working_in(folder):
    """Workers, of loky or submitit, whose working directory is `folder` or that have it in their command."""
    found = []
    for pid, words, _ in _processes():
        if _is_worker(words) or any(word.startswith("submitit.") for word in words):
            try:
                here = os.readlink(f"/proc/{pid}/cwd")
            except OSError:
                continue
            if here == str(folder) or any(str(folder) in word for word in words):
                found.append(pid)
    return found


def _is_worker(words):
    return "loky.backend.popen_loky_posix" in words


def _processes():
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if stat[0] != "Z":
            yield int(entry.name), words, stat
