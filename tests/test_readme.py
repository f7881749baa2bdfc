"""What README tells users to write, run as it stands but for the model, the folder and settings of a CPU."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tampo.paper.bench import format_summary
from tampo.paper.claims import brief_claims
from tampo.paper.regret import brief_regret
from tampo.paper.tables import averages_to_markdown
from tests.helpers import digit_reward
from tests.trainer.helpers import SETTINGS

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_two_lines_change_a_trl_script(tiny_model_path, prompts, tmp_path):
    code = next(block for block in BLOCKS if "TAMPOTrainer" in block)
    assert '"Qwen/Qwen2.5-0.5B-Instruct"' in code
    code = code.replace('"Qwen/Qwen2.5-0.5B-Instruct"', repr(str(tiny_model_path)))
    changed = code.replace('output_dir="out", num_generations=8', "**settings")
    assert changed != code
    names = {"settings": SETTINGS | {"output_dir": str(tmp_path)}, "reward": digit_reward, "data": prompts}
    exec(changed, names)
    rows = [row for row in names["trainer"].state.log_history if "temperature" in row]
    assert len(rows) == SETTINGS["max_steps"]
    assert names["trainer"].controller.meta_policy.updates == SETTINGS["max_steps"]


def test_the_rule_alone():
    code = next(block for block in BLOCKS if "MetaPolicy(" in block)
    generator = np.random.default_rng(0)
    names = {"log_likelihoods": -generator.exponential(9, (6, 5)), "advantages": generator.normal(size=6)}
    exec(code, names)
    assert names["temperature"] in names["policy"].temperatures
    assert names["policy"].updates == 1


ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference" / "mini"


def docs(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_numbers_are_those_of_the_results():
    claims = pd.read_csv(REFERENCE / "tables" / "claims.csv")
    averages = averages_to_markdown(pd.read_csv(REFERENCE / "tables" / "table1.csv"))
    assert brief_claims(claims) in docs("findings.md")
    assert averages in docs("findings.md")
    regrets = pd.read_csv(REFERENCE / "studies" / "regret.csv")
    brief = brief_regret(regrets[regrets["metric"] == "pass@1"])
    assert brief in docs("findings.md") and brief in TEXT
    value = claims.set_index("claim").loc["TAMPO is above the best fixed temperature in Pass@1", "value"]
    assert f"TAMPO is {-value:.1f} points of Pass@1 below the best row" in TEXT


def test_differences_in_the_studies_are_those_of_the_results():
    """Of replays and of a task that changes: every interval is in the findings, that to the replays in README too."""
    found, studies = " ".join(docs("findings.md").split()), REFERENCE / "studies"
    for row in pd.read_csv(studies / "study_replay.differences.csv").itertuples():
        shown = f"{row.low:.1f} to {row.high:.1f}"
        assert shown in found, row.rival
        assert shown in TEXT or not row.rival.startswith("Replay")
    drift = pd.read_csv(studies / "study_drift.differences.csv")
    for row in drift[drift["metric"] == "pass@1"].itertuples():
        either_way = {f"{row.low:.1f} to {row.high:.1f}", f"{-row.high:.1f} to {-row.low:.1f}"}
        assert any(shown in found for shown in either_way), row.rival
    rises = pd.read_csv(studies / "study_drift.rise.csv")
    for row in rises[rises["period"] == "steps 1 to 20"].itertuples():
        assert f"{row.low:.2f} to {row.high:.2f}" in found, row.step


def test_costs_are_those_of_the_results():
    rows = re.search(r"\n\n(\|.*?)\n\n", docs("costs.md"), re.DOTALL)[1].splitlines()
    measured = format_summary(pd.read_csv(REFERENCE / "studies" / "overhead.csv").fillna({"unit": "", "goal": ""}))
    known = {tuple(row) for row in measured.to_numpy().tolist()}
    shown = [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows[2:]]
    assert len(shown) >= 5
    assert set(shown) <= known
    # Those that have a goal are of the step that is compared.
    values = {name: float(value.split()[0]) for name, value, goal in known if "/" in name and goal}
    step, outer = values["step of TAMPO / of TRL's GRPO, the same rollouts"], values["outer loop / rest of that step"]
    assert f"It costs {100 * (step - 1):.0f} % of a step** ({100 * outer:.1f} % for the outer loop itself)" in TEXT


def test_what_the_commands_write_is_ignored_by_git():
    """`git status` is clean after every command of README."""
    written = ["results/mini/tables/table1.csv", "results/mini/verify.md", "results/mini/runs/training-0/manifest.json"]
    written += ["results/mini/sweep.csv", "results/mini/alpha=0.1/tables/table1.md", "results/own/figures/fig3.png"]
    written += re.findall(r"papermill notebooks/\w+\.ipynb (\S+\.ipynb)", TEXT)
    assert "out.ipynb" in written
    command = ["git", "-C", str(ROOT), "check-ignore", "--no-index", *written, "results/reference/mini/README.md"]
    shown = subprocess.run(command, capture_output=True, text=True)
    if shown.returncode == 128:
        pytest.skip(f"not in a git checkout: {shown.stderr.strip()}")
    assert shown.stdout.split() == written


def test_commands_are_in_the_makefile_and_links_lead_somewhere():
    root = Path(__file__).parents[1]
    makefile = (root / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", TEXT, re.MULTILINE):
        assert f"\n{target}:" in makefile, target
    for path in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (root / path).exists(), path
