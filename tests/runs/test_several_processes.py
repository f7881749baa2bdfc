"""Several processes choose one checkpoint, agree on what is broken, and have the time to save when they are stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tampo.runs import checkpoints
from tampo.runs.checkpoints import SEAL, DamagedCheckpoint, last_whole_checkpoint, seal_checkpoint
from tampo.runs.interrupts import check_shutdown_timeout

ROOT = Path(__file__).parents[2]
STEP = 3.0  # seconds; longer than the shorter timeout, shorter than the longer one


def start(folder, timeout):
    """Two processes under torch's launcher, which kills them `timeout` seconds after a signal."""
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "tests.runs.two_ranks", str(folder), str(STEP), "all" if timeout == "60" else "steps alone"]
    settings = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": timeout, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def stop(launcher, folder):
    """Signal the launcher in the middle of a step; the names of the processes that could save."""
    deadline = time.monotonic() + 90
    while not all((folder / f"ready{rank}").exists() for rank in (0, 1)):
        assert launcher.poll() is None and time.monotonic() < deadline, launcher.communicate()[0][-3000:]
        time.sleep(0.05)
    launcher.send_signal(signal.SIGTERM)
    said, _ = launcher.communicate(timeout=60)
    return sorted(path.name for path in folder.glob("saved*")), said


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """By the seconds that the launcher waits: what was saved, what it printed, and what each process found before."""
    base, found = tmp_path_factory.mktemp("ranks"), {}
    for timeout in ("60", "1"):  # one after the other: torch's imports take most of the time, and two cores
        folder = base / timeout
        saved, said = stop(start(folder, timeout), folder)
        found[timeout] = saved, said, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    return found


def test_a_step_longer_than_the_launchers_patience_is_lost_and_a_patient_one_lets_it_end(stopped):
    saved, said, ranks = stopped["1"]
    assert saved == []
    assert "forcefully exiting" in said
    assert "A step takes 3 s: 1 s after Ctrl-C or a pre-emption the launcher kills the run" in said
    assert "Set TORCH_ELASTIC_SHUTDOWN_TIMEOUT=3600" in said
    assert [rank["warned"] for rank in ranks] == [True, True]
    saved, said, ranks = stopped["60"]
    assert saved == ["saved0", "saved1"]
    assert "A step takes" not in said
    assert [rank["warned"] for rank in ranks] == [False, False]


def test_the_first_process_decides_and_all_raise_its_error(stopped):
    _, _, ranks = stopped["60"]
    for rank in ranks:
        assert rank["count"] == 2
        assert rank["gathered"] == ["of 0", "of 1"]
        assert rank["first"] == "by 0"
        assert rank["error"] == "OSError: [Errno 28] No space left on device"
        assert rank["any"] == [True, False]


def test_all_resume_from_the_first_ones_checkpoint_or_refuse_together(stopped):
    _, _, ranks = stopped["60"]
    for rank in ranks:
        assert rank["agreed"] == [str(Path("same", "checkpoint-1")), None]
        other, three, second = rank["refused"]
        assert other.startswith("DamagedCheckpoint: The first process resumes from other/checkpoint-1")
        assert "process 1 on " in other and " not weights. All processes must write to one disk" in other
        assert three.startswith("ConfigError: of three/checkpoint-1 was saved by 3 processes, and 2 were started.")
        assert "--num_processes 3" in three
        assert second.startswith("ConfigError: process 1 on ")
        assert " cannot see of the second of the first process. All processes must write to one disk" in second
        assert rank["left"] == [], "the mark of the check is gone"


def test_a_broken_part_of_one_process_stops_both(stopped):
    """FSDP2: each holds some rows of a weight, and only the second one's are broken."""
    _, _, ranks = stopped["60"]
    assert sum(rank["held"] for rank in ranks) == ranks[0]["total"]
    assert all(0 < rank["held"] < rank["total"] for rank in ranks)
    for rank in ranks:
        assert rank["whole"] == "nothing: None"
        assert rank["broken"] == "NonFiniteLoss: After step 4, weights are not finite: 1.weight."


def test_a_warning_only_under_torchs_launcher_and_only_where_it_is_due(monkeypatch, caplog):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
    assert not check_shutdown_timeout() and not check_shutdown_timeout(1e4)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert check_shutdown_timeout()
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT is not set: 30 s after Ctrl-C" in caplog.text
    assert not check_shutdown_timeout(29.0)
    assert check_shutdown_timeout(45.0)
    assert "A step takes 45 s: 30 s after Ctrl-C" in caplog.text
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "3600")
    assert not check_shutdown_timeout() and not check_shutdown_timeout(45.0)


ZERO = ["global_step4/bf16_zero_pp_rank_{}_mp_rank_00_optim_states.pt", "rollouts_{}.safetensors", "rng_state_{}.pth"]
ZERO3 = ["global_step4/zero_pp_rank_{}_mp_rank_00_model_states.pt"]
ONCE = ["model.safetensors", "global_step4/mp_rank_00_model_states.pt", "trainer_state.json"]


def written(folder, count):
    names = ONCE + [name.format(i) for name in ZERO + ZERO3 for i in range(count)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"1")
    return names


@pytest.mark.parametrize("lost", [None, *[name.format(9) for name in ZERO + ZERO3]])
def test_the_seal_counts_the_shards_of_all_processes(tmp_path, monkeypatch, lost):
    monkeypatch.setattr(checkpoints, "_VISIBLE", 0.0)
    folder = tmp_path / "checkpoint-4"
    written(folder, 12)
    if lost is None:
        seal_checkpoint(folder, 12)
        assert last_whole_checkpoint(tmp_path, 12) == str(folder)
        return
    (folder / lost).unlink()
    with pytest.raises(DamagedCheckpoint, match=f"checkpoint-4 lacks {lost}, of 12 processes. .*TAMPO_STORE"):
        seal_checkpoint(folder, 12)
    assert last_whole_checkpoint(tmp_path, 12) is None


def test_shards_that_show_late_are_waited_for(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint-4"
    late = folder / written(folder, 2)[-1]
    late.unlink()
    monkeypatch.setattr("time.sleep", lambda seconds: late.write_bytes(b"1"))
    seal_checkpoint(folder, 2)
    assert json.loads((folder / SEAL).read_text())["processes"] == 2


def test_seals_of_earlier_versions_are_read(tmp_path):
    folder = tmp_path / "checkpoint-4"
    written(folder, 2)
    seal_checkpoint(folder, 2)
    (folder / SEAL).write_text(json.dumps(json.loads((folder / SEAL).read_text())["files"]))
    assert last_whole_checkpoint(tmp_path, 8) == str(folder), "which say no number"
