"""Logs of training runs with TAMPO, made by the meta-policy itself from random batches, and a store with them."""

import numpy as np
import pandas as pd

from tampo import MetaPolicy
from tampo.config import load_params
from tampo.paper.experiments import TABLE4, regime_params
from tampo.runs.identity import training_identity

STEPS = 6
CANDIDATES = (0.6, 0.9, 1.2, 1.5)


def batches(seed=0, steps=STEPS, candidates=CANDIDATES):
    """(log-likelihoods, advantages) of each step."""
    generator = np.random.default_rng(seed)
    shape = (8, len(candidates))
    return [(-generator.exponential(2, shape), generator.normal(size=8)) for _ in range(steps)]


def log_of(policy, given):
    """The log of a training run, and the nucleus of each step, (N, K)."""
    rows, nuclei = [], []
    for step, (likelihoods, advantages) in enumerate(given, start=1):
        row = {"step": step, "temperature": policy.sample()}
        policy.update(likelihoods, advantages)
        signal = policy.batch_advantages(likelihoods, advantages)
        for name, values in (("p", policy.probabilities), ("average", policy.advantages), ("signal", signal)):
            row |= {f"meta_policy/{name}({t:g})": v for t, v in zip(policy.temperatures, values, strict=True)}
        rows.append(row)
        nuclei.append(policy.sampling_probabilities)
    return pd.DataFrame(rows), np.array(nuclei)


def wanted(regime, scale="smoke", **changes):
    """The parameters of TAMPO's training run in a regime."""
    return regime_params(load_params(scale))[regime].training(**(TABLE4[0].changes or {}), **changes)


def add_run(store, config, log):
    """A finished record with this log."""

    def build(folder):
        log.to_csv(folder / "metrics.csv", index=False)
        return {}

    return store.make("training", training_identity(config), build)


def add_runs(store, regimes=("facts", "arithmetic")):
    """A run of `STEPS` steps in each regime of the smoke scale, with all candidates."""
    candidates = load_params("smoke").temperature_candidates
    for seed, regime in enumerate(regimes):
        log, _ = log_of(MetaPolicy(candidates), batches(seed, candidates=candidates))
        add_run(store, wanted(regime), log)
