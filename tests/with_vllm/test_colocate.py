"""TAMPO with vLLM inside the trainer: loss and sampling agree on every token, whatever the temperature."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.with_vllm.colocate import DIFFERENCE


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """The rounds of `tests.with_vllm.colocate`, in a process of its own: vLLM's worker takes over the one it is in."""
    output = tmp_path_factory.mktemp("colocate")
    command = [sys.executable, "-m", "tests.with_vllm.colocate", str(output)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    log = json.loads((output / "log.json").read_text())
    for name, rows in log.items():
        for row in rows:
            print(f"{name}: T = {row['temperature']:g}, difference {row[DIFFERENCE]:.1e}, reward {row['reward']:.2f}")
    return log


def differences(rows: list[dict]) -> list[float]:
    return [row[DIFFERENCE] for row in rows]


def test_every_step_has_a_temperature_of_its_own(log: dict[str, list[dict]]) -> None:
    for rows in log.values():
        temperatures = {row["temperature"] for row in rows}
        assert len(temperatures) == len(rows) == 3
        assert 1.0 not in temperatures


def test_loss_and_sampling_agree(log: dict[str, list[dict]]) -> None:
    assert max(differences(log["right"])) < 1e-5


def test_a_stale_temperature_in_the_loss_shows(log: dict[str, list[dict]]) -> None:
    assert min(differences(log["stale head"])) > 1e-2


def test_stale_weights_in_vllm_show(log: dict[str, list[dict]]) -> None:
    """So the agreement above says that new weights reach vLLM."""
    before, *after = differences(log["unsynced"])
    assert before < 1e-5
    assert min(after) > 1e-2


def test_seeds_differ_in_rollouts_and_not_only_in_the_order_of_prompts(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """TRL seeds the engine by the process alone, so that every training had the same random numbers."""
    rollouts = []
    for seed in ("1", "2"):
        output = tmp_path_factory.mktemp("seed")
        command = [sys.executable, "-m", "tests.with_vllm.colocate", str(output), seed]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
        rollouts.append(json.loads((output / "rollouts.json").read_text()))
    first, second = rollouts
    assert len(first) == len(second) == 8
    assert len(set(first)) > 1
    assert first != second
