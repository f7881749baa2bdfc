"""Results compared: what is equal, near, different or missing is named, whatever is broken."""

import json
import re
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest

from tampo.cli import main
from tampo.config import ConfigError, load_params
from tampo.files import write_json
from tampo.paper import verify as module
from tampo.paper.comparison import Status, compare_notebook, compare_tables
from tampo.paper.verify import diff, report, verify
from tampo.runs.provenance import MANIFEST_ENDING, provenance, write_manifest
from tampo.runs.store import MissingRecord
from tests.helpers import make_project

SCORES = pd.DataFrame(
    {
        "method": ["base", "base", "tampo", "tampo"],
        "title": ["Base model", "Base model", "TAMPO", "TAMPO"],
        "benchmark": ["Average", "gcd", "Average", "gcd"],
        "metric": "pass@1",
        "value": [33.6, 40.0, 47.9, 55.5],
        "low": [30.1, 35.0, 45.2, 50.0],
        "high": [36.5, 45.0, 50.7, 60.0],
        "published": None,
        "seeds": [1, 1, 5, 5],
    }
)
REWARDS = pd.DataFrame({"title": "TAMPO", "seed": [0, 0, 1, 1, 2, 2], "step": [1, 2] * 3, "reward": [0.1, 0.4] * 3})
CLAIMS = pd.DataFrame(
    {
        "claim": ["TAMPO is best", "TAMPO takes the same time"],
        "value": [1.0, 1.0],
        "low": [0.5, 0.99],
        "high": [1.5, 1.01],
        "verdict": ["replicated", "replicated"],
        "note": ["", ""],
    }
)
RECORD = {
    "kind": "training",
    "identity": {"seed": 0},
    "files": {"metrics.csv": "a", "times.csv": "b"},
    "seconds": 1.0,
}


def make_results(folder: Path, scores=SCORES, rewards=REWARDS, claims=CLAIMS, record=RECORD, **changes) -> Path:
    params = load_params("smoke", {"seeds": [0, 1, 2]} | changes)
    for name in ("tables", "figures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    scores.to_csv(folder / "tables" / "table1.csv", index=False, float_format="%.4f")
    (folder / "tables" / "table1.md").write_text("| a table |")
    claims.to_csv(folder / "tables" / "claims.csv", index=False, float_format="%.6g")
    rewards.to_csv(folder / "figures" / "fig3.rewards.csv", index=False, float_format="%.6g")
    for section, name in (("tables", "table1"), ("tables", "claims"), ("figures", "fig3")):
        write_manifest(folder / section, name, params, {"training-0": record})
    return folder


@pytest.fixture
def reference(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path / "project"))
    folder = make_results(tmp_path / "project" / "results" / "reference" / "smoke")
    write_json(folder / "reference.json", {"scale": "smoke", "seeds": [0, 1, 2], **provenance()})
    return folder


@pytest.fixture
def mine(reference):
    return reference.parents[1] / "smoke"


def test_equal_results_are_equal_to_the_bit(reference, mine, capsys):
    make_results(mine)
    assert main(["verify", "smoke"]) == 0
    said = capsys.readouterr().out
    assert "table1: 2 of 2 rows as in the reference, equal to the bit." in said
    assert "1 of 1 runs and evaluations in common are equal to the bit." in said
    counts = json.loads((mine / "verify.json").read_text())["counts"]
    assert counts["equal to the bit"] == 4 + 2 + 6
    assert sum(counts.values()) == 12
    assert "equal to the bit" in (mine / "verify.md").read_text()


@pytest.mark.parametrize(
    ("value", "status"),
    [(47.9, Status.EQUAL), (47.9001, Status.ROUNDED), (47.95, Status.INSIDE), (51.0, Status.DIFFERENT)],
)
def test_a_number_is_judged_by_distance_and_interval(reference, mine, value, status, capsys):
    scores = SCORES.copy()
    scores.loc[2, ["value", "low", "high"]] = [value, value - 2.7, value + 2.8]
    make_results(mine, scores)
    found = verify(mine, reference)
    row = next(item for item in found.items if item.row == "TAMPO, Average, pass@1")
    assert row.status is status
    assert main(["verify", "smoke"]) == int(status is Status.DIFFERENT)


def test_a_number_far_away_is_named(reference, mine, capsys):
    scores = SCORES.copy()
    scores.loc[2, ["value", "low", "high"]] = [70.0, 68.0, 72.0]
    make_results(mine, scores)
    assert main(["verify", "smoke"]) == 1
    said = capsys.readouterr().out
    assert "TAMPO, Average, pass@1: 70.0000 here, 47.9000 in the reference" in said
    assert "table1: 1 of 2 rows as in the reference, equal to the bit" in said


def break_number(folder):
    path = folder / "tables" / "table1.csv"
    path.write_text(path.read_text().replace("47.9000", "99.9000"))


def break_text(folder):
    (folder / "tables" / "table1.md").write_text("| another table |")


def break_curve(folder):
    path = folder / "figures" / "fig3.rewards.csv"
    path.write_text(path.read_text().replace("0.4", "0.9"))


def remove_curve(folder):
    (folder / "figures" / "fig3.rewards.csv").unlink()


def break_table(folder):
    (folder / "tables" / "table1.csv").write_bytes(b"\xff\xfe not a table")


def break_manifest(folder):
    (folder / "figures" / f"fig3{MANIFEST_ENDING}").write_text('{"params": ')


def break_parameters(folder):
    path = folder / "figures" / f"fig3{MANIFEST_ENDING}"
    path.write_text(path.read_text().replace('"alpha": 0.05', '"alpha": 0.06'))


def break_entries(folder):
    path = folder / "tables" / f"table1{MANIFEST_ENDING}"
    write_json(path, {"params": json.loads(path.read_text())["params"]})


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (break_number, ["tables/table1.csv:", "changed", "99.9000 here, 47.9000 in the reference"]),
        (break_text, ["tables/table1.md:", "changed"]),
        (break_curve, ["figures/fig3.rewards.csv:", "changed", "reward: 0.9 here, 0.4 in the reference"]),
        (break_table, ["tables/table1.csv:", "changed", "unreadable"]),
        (remove_curve, ["figures/fig3.rewards.csv:", "removed"]),
        (break_manifest, ["figures/fig3.manifest.json:", "damaged"]),
        (break_parameters, ["figures/fig3.manifest.json:", "parameters changed"]),
        (break_entries, ["tables/table1.manifest.json:", "damaged"]),
    ],
)
@pytest.mark.parametrize("side", ["here", "there"])
def test_what_is_broken_is_named(reference, mine, damage, named, side, capsys):
    make_results(mine)
    damage(mine if side == "here" else reference)
    assert main(["verify", "smoke"]) == 1
    said = capsys.readouterr().out
    if side == "there":
        named = [part for part in named if " here, " not in part]
    assert all(part in said for part in named), said
    assert main(["diff", str(reference), str(mine)]) == 1
    said = capsys.readouterr().out
    assert named[0] in said


def test_a_changed_verdict_is_different_and_another_time_is_not(reference, mine):
    claims = CLAIMS.assign(verdict=["not replicated", "replicated"], value=[1.1, 1.2], low=[0.6, 1.1], high=[1.6, 1.3])
    make_results(mine, claims=claims)
    by_row = {item.row: item.status for item in verify(mine, reference).items if item.file == "tables/claims.csv"}
    assert by_row == {"TAMPO is best": Status.DIFFERENT, "TAMPO takes the same time": Status.TIME}


def test_a_curve_within_the_spread_of_seeds_is_inside_and_a_far_one_is_not():
    steps = range(1, 11)
    rows = [
        {"title": "TAMPO", "seed": seed, "step": step, "reward": round(0.4 + 0.02 * seed + 0.01 * step, 4)}
        for seed in range(5)
        for step in steps
    ]
    reference = pd.DataFrame(rows).astype(str)
    near, far = reference.copy(), reference.copy()
    near["reward"] = (near["reward"].astype(float) + 0.003).round(4).astype(str)
    far["reward"] = (far["reward"].astype(float) + 0.3).round(4).astype(str)
    for table, status in ((reference, Status.EQUAL), (near, Status.INSIDE), (far, Status.DIFFERENT)):
        found = {item.status for item in compare_tables("fig3", "f.csv", table, reference, reference)}
        assert found == {status}


def test_other_rows_are_different(reference, mine):
    make_results(mine, SCORES.iloc[:3])
    found = verify(mine, reference, only=["table1"])
    assert found.different[0].here.startswith("3 rows of")


def test_what_was_not_run_is_said_and_is_no_difference(reference, mine, capsys):
    make_results(mine)
    for path in (mine / "figures").glob("fig3*"):
        path.unlink()
    assert main(["verify", "smoke"]) == 0
    assert "not run" in capsys.readouterr().out


def test_other_bits_of_a_run_are_counted(reference, mine):
    make_results(mine, record=RECORD | {"files": {"metrics.csv": "other", "times.csv": "b"}})
    assert "0 of 1 runs and evaluations in common are equal to the bit" in report(verify(mine, reference))
    make_results(mine, record=RECORD | {"files": {"metrics.csv": "a", "times.csv": "other"}})
    assert "1 of 1 runs and evaluations in common" in report(verify(mine, reference)), "times may differ"


def test_other_parameters_are_not_compared(reference, mine, capsys):
    make_results(mine, alpha=0.3)
    assert main(["verify", "smoke"]) == 2
    said = capsys.readouterr().err
    assert "Nothing to compare. table1 is not compared: other parameters, alpha 0.3 here and 0.05 there." in said


def test_seeds_that_the_reference_lacks_are_not_compared(reference, mine, capsys):
    make_results(mine, seeds=[7])
    assert main(["verify", "smoke"]) == 2
    assert "the reference has no runs of the seeds 7" in capsys.readouterr().err


def test_some_seeds_may_need_runs_that_the_reference_lacks(reference, mine, monkeypatch):
    make_results(mine, seeds=[1, 2])
    monkeypatch.setattr(module, "archived_store", lambda *given: nullcontext())
    monkeypatch.setattr(module, "execute", Mock(side_effect=MissingRecord))
    with pytest.raises(ConfigError, match="table1 is not compared: the reference lacks a run that the seeds 1, 2 need"):
        verify(mine, reference)


@pytest.mark.parametrize(
    "changes", [{"params": {}}, {"params": []}, {"records": {"training-0": []}}, {"records": {"training-0": {}}}]
)
def test_a_manifest_that_lacks_something_is_damaged(reference, mine, changes):
    path = make_results(mine) / "tables" / f"table1{MANIFEST_ENDING}"
    write_json(path, json.loads(path.read_text()) | changes)
    assert main(["verify", "smoke"]) == 1
    assert "damaged here" in (mine / "verify.md").read_text()


def test_a_number_with_too_many_digits_is_a_text(reference, mine):
    make_results(mine, scores=SCORES.astype({"value": object}).assign(value=["1e999999999", *SCORES["value"][1:]]))
    assert main(["verify", "smoke"]) == 1


def test_a_reference_of_another_version(reference, mine, capsys):
    make_results(mine)
    about = json.loads((reference / "reference.json").read_text())
    about["versions"]["tampo"] = "0.0.3"
    write_json(reference / "reference.json", about)
    assert main(["verify", "smoke"]) == 2
    assert "was made by tampo 0.0.3, and this is 0.1.0: compare with --allow-version" in capsys.readouterr().err
    assert main(["verify", "smoke", "--allow-version"]) == 0


def test_what_cannot_be_compared_says_why(reference, mine, tmp_path, capsys):
    assert main(["verify", "smoke"]) == 2
    assert "There are no results in" in capsys.readouterr().err
    assert main(["verify", "smoke", "--seeds", "1-0"]) == 2
    assert "seeds" in capsys.readouterr().err
    make_results(mine / "seeds=3-4")
    assert main(["verify", "smoke", "--seeds", "1-2"]) == 2
    assert re.search(r"no results in \S*smoke/seeds=1-2\..* Is it \S*smoke/seeds=3-4\?$", capsys.readouterr().err)
    assert main(["verify", "smoke"]) == 2
    assert re.search(r"Is it \S*smoke/seeds=3-4\?$", capsys.readouterr().err)
    make_results(mine)
    assert main(["verify", "smoke", "--seeds", "1-2"]) == 2
    assert re.search(r"Is it \S*smoke or \S*smoke/seeds=3-4\?$", capsys.readouterr().err)
    assert main(["verify", "smoke", "--seeds", "3-4"]) == 0
    assert main(["verify", "smoke", "--seeds", "0"]) == 0, "the scale's own seeds"
    capsys.readouterr()
    assert main(["verify", "smoke", "--reference", str(tmp_path)]) == 2
    assert "There is no reference in" in capsys.readouterr().err
    assert main(["verify", "smoke", "--only", "table7"]) == 2
    assert "Unknown notebook 'table7'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="There are no results in"):
        diff(tmp_path, mine)


def test_full_reads_the_runs_in_the_store(reference, mine, capsys):
    make_results(mine)
    assert main(["verify", "smoke", "--full"]) == 1
    assert "runs/training-0:\n  damaged or missing in the store" in capsys.readouterr().out


def test_raw_times_are_not_compared_and_their_summary_is_judged_by_intervals(tmp_path):
    rows = pd.DataFrame({"measured": ["a", "b"], "value": [1.0, 2.0], "low": [0.9, 1.9], "high": [1.1, 2.1]})
    for name, table in (("here", rows.assign(value=[1.05, 5.0])), ("there", rows)):
        folder = tmp_path / name / "studies"
        folder.mkdir(parents=True)
        table.to_csv(folder / "overhead.csv", index=False)
        table.to_csv(folder / "overhead.steps.csv", index=False)
    found = list(compare_notebook("overhead", tmp_path / "here", tmp_path / "there"))
    assert [(item.row, item.status) for item in found] == [("a", Status.INSIDE), ("b", Status.TIME)]
