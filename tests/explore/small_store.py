"""A store of training runs made by hand, as `tampo.runs.store` writes them, with meaningless numbers."""

import json
import re

import numpy as np
import pandas as pd

from tampo.config import load_params
from tampo.paper.experiments import TRAINED
from tampo.runs.pipeline import training_identity
from tampo.runs.store import LIVE_LOG, PARAMETERS, RunStore

PARAMS = load_params("smoke", {"max_steps": 6})
CANDIDATES = PARAMS.temperature_candidates
PROBLEMS = ("sum-1", "sum-2")
GROUP = 4
HOSTILE = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'>\n# Heading\n$x^2$ \x1b[2J\u202eevil"


def identity(method, seed=0):
    """The identity of the training run of one of `TRAINED`."""
    return training_identity(PARAMS.training(seed=seed, **method.changes))


def metrics(method, seed=0, steps=PARAMS.max_steps):
    """A log like TRL's: temperatures of the method, and for TAMPO a meta-policy that sums to 1."""
    generator = np.random.default_rng([seed, *method.key.encode()])
    step = np.arange(1, steps + 1)
    changes = method.changes
    drawn = {
        "fixed": lambda: np.full(steps, changes["temperature"]),
        "linear": lambda: np.linspace(0.9, 1.5, steps),
        "tampo": lambda: generator.choice(CANDIDATES, size=steps),
    }[changes["temperature_controller"]]()
    log = pd.DataFrame({"step": step, "temperature": drawn})
    log["reward"], log["entropy"] = generator.uniform(size=steps), generator.uniform(0.1, 0.4, size=steps)
    for sign in ("positive", "negative"):
        log[f"optimal_temperature/{sign}_mean"] = generator.uniform(0.6, 1.5, size=steps)
    if method.key == "tampo":
        for t, p in zip(CANDIDATES, generator.dirichlet(np.ones(len(CANDIDATES)), size=steps).T, strict=True):
            log[f"meta_policy/p({t:g})"] = p
    return log


def rollouts(method, step, temperature, seed=0):
    """The table of completions of one step."""
    rows = []
    for problem in PROBLEMS:
        for number in range(GROUP):
            correct = number % 2 == 0
            text = f"{method.key}, seed {seed}, step {step}, {problem}, rollout {number + 1}"
            if step == 5 and number == 0:
                text += f"\n{HOSTILE}"
            row = {"step": step, "prompt": f"What is {problem}?", "completion": text, "accuracy": float(correct)}
            row |= {"problem_id": problem, "verdict": "correct" if correct else "wrong", "temperature": temperature}
            best = 0.6 + 0.1 * (step + number) % 0.9
            offset = 3 + number + PROBLEMS.index(problem)
            row["log_likelihoods"] = [-offset - 4 * (1 / t - 1 / best) ** 2 for t in CANDIDATES]
            rows.append(row | {"advantage": 0.87 if correct else -0.87})
    return pd.DataFrame(rows)


def add_finished(store, method, seed=0, with_rollouts=True):
    """The folder of a finished training run."""
    folder = store.folder("training", identity(method, seed))
    folder.mkdir(parents=True)
    log = metrics(method, seed)
    log.to_csv(folder / "metrics.csv", index=False)
    if with_rollouts:
        tables = [rollouts(method, int(row.step), row.temperature, seed) for row in log.itertuples()]
        pd.concat(tables, ignore_index=True).to_parquet(folder / "rollouts.parquet", row_group_size=len(tables[0]))
    manifest = {"kind": "training", "identity": identity(method, seed), "files": {}, "commit": None, "seconds": 1.0}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def add_running(store, method, seed=1, steps=3):
    """The folder of a running training run: its last line and its last table are incomplete."""
    folder = store.folder("training", identity(method, seed))
    completions = folder / "checkpoints" / "completions"
    completions.mkdir(parents=True)
    (folder / PARAMETERS).write_text(json.dumps(identity(method, seed)))
    take_steps(folder, method, seed, range(1, steps + 1))
    with open(folder / LIVE_LOG, "a") as file:
        file.write(json.dumps({"step": steps + 1, "reward": 0.5})[:-4])
    whole = (completions / f"completions_{steps:05d}.parquet").read_bytes()
    (completions / f"completions_{steps + 1:05d}.parquet").write_bytes(whole[: len(whole) // 2])
    return folder


def take_steps(folder, method, seed, steps):
    """Add steps to a running training run."""
    path = folder / LIVE_LOG
    before = path.read_text() if path.is_file() else ""
    log = metrics(method, seed).set_index("step")
    with open(path, "w") as file:
        file.write(re.sub(r"[^\n]+\Z", "", before))  # the line that was torn is whole now
        for step in steps:
            file.write(json.dumps({"step": step, "steps": PARAMS.max_steps} | log.loc[step].to_dict()) + "\n")
            target = folder / "checkpoints" / "completions" / f"completions_{step:05d}.parquet"
            rollouts(method, step, log.loc[step, "temperature"], seed).to_parquet(target)


def make_store(root):
    """A store with the training runs of Table 1, seed 0, and a running one of TAMPO with seed 1."""
    store = RunStore(root)
    for method in TRAINED:
        add_finished(store, method)
    add_running(store, TRAINED[-1])
    return store
