"""Remembered hashes: a large file is read once while it is unchanged, and never believed once it may have changed."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tampo.files import sha256
from tampo.runs import hashes
from tampo.runs.hashes import remembered_sha256

SIZE = 1_100_000


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAMPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hashes.json"


@pytest.fixture
def reads(monkeypatch):
    """The files that were read to the end."""
    read = []

    def counting(path):
        read.append(path)
        return sha256(path)

    monkeypatch.setattr(hashes, "sha256", counting)
    return read


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "weights", b"a")


@pytest.fixture
def later(monkeypatch):
    """Move the clock: files written now are old enough to be remembered."""
    clock = time.time
    monkeypatch.setattr(hashes.time, "time", lambda: clock() + 10)


def write(path, letter):
    path.write_bytes(letter * SIZE)
    return path


def expected(letter):
    return hashlib.sha256(letter * SIZE).hexdigest()


def test_a_large_file_is_read_once(cache, reads, file, later):
    assert [remembered_sha256(file) for _ in range(3)] == [expected(b"a")] * 3
    assert reads == [file]


def test_a_small_file_is_always_read(cache, reads, tmp_path, later):
    file = tmp_path / "config.json"
    file.write_text("{}")
    assert {remembered_sha256(file) for _ in range(3)} == {hashlib.sha256(b"{}").hexdigest()}
    assert len(reads) == 3
    assert not cache.exists()


def test_a_file_that_was_just_written_is_not_remembered(cache, reads, file):
    """It can change again at the same size and time."""
    assert remembered_sha256(file) == remembered_sha256(file)
    assert len(reads) == 2
    assert not cache.exists()


def test_the_age_is_that_before_the_reading(cache, file, monkeypatch):
    """A large file takes longer to read than the limit."""
    real, start, ticks = hashes.sha256, time.time(), []

    def slow(path):
        ticks.append(60)
        return real(path)

    monkeypatch.setattr(hashes, "sha256", slow)
    monkeypatch.setattr(hashes.time, "time", lambda: start + sum(ticks))
    remembered_sha256(file)
    assert not cache.exists()


def test_changed_content_of_the_same_size_is_read(cache, reads, file, later):
    remembered_sha256(file)
    time.sleep(0.02)  # the resolution of the file system's clock
    write(file, b"b")
    assert remembered_sha256(file) == expected(b"b")
    assert remembered_sha256(file) == expected(b"b")
    assert len(reads) == 2


def test_content_changed_under_an_old_date_is_read(cache, reads, file, later):
    """cp -p, rsync -t and tar set the time of the content back, not that of the inode."""
    remembered_sha256(file)
    before = file.stat()
    time.sleep(0.02)
    write(file, b"b")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert remembered_sha256(file) == expected(b"b")


def test_another_file_at_the_same_path_is_read(cache, file, later, tmp_path):
    remembered_sha256(file)
    os.replace(write(tmp_path / "other", b"b"), file)
    assert remembered_sha256(file) == expected(b"b")


def test_a_touched_file_is_read(cache, reads, file, later):
    remembered_sha256(file)
    os.utime(file, ns=(1, 1))
    assert remembered_sha256(file) == expected(b"a")
    assert len(reads) == 2


def test_a_link_shares_the_hash_of_its_file(cache, reads, file, later, tmp_path):
    """As in the hub's cache, where each commit's folder links to the same weights."""
    (tmp_path / "link").symlink_to(file)
    assert remembered_sha256(file) == remembered_sha256(tmp_path / "link")
    assert len(reads) == 1
    other = write(tmp_path / "other", b"b")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(other)
    assert remembered_sha256(tmp_path / "link") == expected(b"b")


def test_read_all_believes_nothing(cache, reads, file, later):
    remembered_sha256(file)
    entry = json.loads(cache.read_text())
    entry[str(file)]["sha256"] = "0" * 64
    cache.write_text(json.dumps(entry))
    assert remembered_sha256(file) == "0" * 64
    with pytest.raises(KeyError), hashes.read_all():
        assert [remembered_sha256(file) for _ in range(2)] == [expected(b"a")] * 2
        raise KeyError
    assert len(reads) == 3
    assert remembered_sha256(file) == expected(b"a")
    assert len(reads) == 3, "afterwards hashes are believed again, after an error too"
    assert json.loads(cache.read_text())[str(file)]["sha256"] == expected(b"a"), "what was read is remembered again"


DAMAGED = ["", "{", "[]", "null", '"text"', "\udcff"]
ENTRIES = [None, [], "x", {}, {"state": 1, "sha256": "0" * 64}, {"state": [1, 2, 3, 4]}, {"sha256": "0" * 64}]
ENTRIES += [{"state": "STATE", "sha256": 7}, {"state": "STATE", "sha256": "0"}, {"state": [float("nan")], "sha256": ""}]


@pytest.mark.parametrize("text", [*DAMAGED, *ENTRIES], ids=repr)
def test_a_damaged_cache_costs_time_only(cache, reads, file, later, text):
    status = file.stat()
    state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    if not isinstance(text, str) or text == "x":
        text = json.dumps({str(file): text, "other": text}).replace('"STATE"', json.dumps(state))
    cache.parent.mkdir()
    cache.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert [remembered_sha256(file) for _ in range(2)] == [expected(b"a")] * 2
    assert len(reads) == 1, "it was mended"
    assert list(json.loads(cache.read_text())) == [str(file)]


@pytest.mark.parametrize("way", ["a file in its place", "no home", "a full disk"])
def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, reads, file, later, monkeypatch, way):
    if way == "a file in its place":
        (tmp_path / "taken").write_text("x")
        monkeypatch.setenv("TAMPO_CACHE", str(tmp_path / "taken" / "cache"))
    elif way == "no home":
        monkeypatch.delenv("TAMPO_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.chdir(tmp_path)

        def expanduser(self):
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "expanduser", expanduser)
    else:

        def fail(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("tampo.files.tempfile.mkstemp", fail)
    assert [remembered_sha256(file) for _ in range(2)] == [expected(b"a")] * 2
    assert len(reads) == 2
    assert not (tmp_path / "~").exists()


def test_the_default_is_in_the_users_cache(tmp_path, file, later, monkeypatch):
    monkeypatch.delenv("TAMPO_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    remembered_sha256(file)
    assert (tmp_path / "home" / ".cache" / "tampo" / "hashes.json").is_file()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    remembered_sha256(file)
    assert (tmp_path / "xdg" / "tampo" / "hashes.json").is_file()


def test_a_missing_file_is_an_error(cache, tmp_path):
    with pytest.raises(FileNotFoundError):
        remembered_sha256(tmp_path / "gone")


RACE = """
import sys, time
from pathlib import Path
from tampo.runs import hashes

clock = time.time
hashes.time.time = lambda: clock() + 10
for path in sys.argv[1:] * 5:
    print(hashes.remembered_sha256(Path(path)))
"""


def test_two_processes_leave_a_whole_cache(cache, tmp_path):
    """One may overwrite what the other has just remembered; that file is read once more."""
    files = [str(write(tmp_path / str(i), b"%d" % i)) for i in range(6)]
    command = [sys.executable, "-c", RACE, *files]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert outputs == [[expected(b"%d" % i) for i in range(6)] * 5] * 2
    entries = json.loads(cache.read_text())
    assert entries.keys() <= set(files) and entries
    assert all(entry["sha256"] == expected(Path(name).name.encode()) for name, entry in entries.items())
    assert [path.name for path in cache.parent.iterdir()] == ["hashes.json"], "no temporary file is left"
