"""What tampo adds to TRL's model card: the temperature controller, parameters, provenance."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from tampo.controllers.base import RunSettings, TemperatureController, resolved

PAPER: dict[str, str] = {
    "title": "Temperature as a Meta-Policy: Adaptive Temperature in LLM Reinforcement Learning",
    "id": "2602.11779",
    "citation": """@inproceedings{tampo2026,
    title     = {{Temperature as a Meta-Policy: Adaptive Temperature in LLM Reinforcement Learning}},
    author    = {Haoran Dang and Cuiling Lan and Hai Wan and Xibin Zhao and Yan Lu},
    booktitle = {International Conference on Learning Representations},
    year      = 2026,
    eprint    = {arXiv:2602.11779},
}""",
}


def add_temperature(path: Path, name: str, controller: TemperatureController, run: RunSettings) -> None:
    """Add the temperature controller and its parameters to the card at `path`."""
    values = {"temperature_candidates": list(run.temperatures), "seed": run.seed, **resolved(controller)}
    if controller.uses_warmup:
        values |= {"meta_warmup_ratio": run.warmup_ratio, "meta_warmup_temperature": run.warmup_temperature}
    _add(
        path,
        "Sampling temperature",
        f"Set in each generation batch by the controller `{name}` of [tampo](https://arxiv.org/abs/{PAPER['id']}) "
        f"{version('tampo')}: {(controller.__doc__ or '').splitlines()[0]}",
        values,
    )


def add_run(path: Path, identity: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Add the parameters and the provenance of the run to the card at `path`, and a base model on the hub."""
    if str(identity["model_content"]).startswith("commit "):
        # Loaded from a folder, the local copy of one commit, which TRL does not know as a model on the hub.
        card, model = ModelCard.load(path), identity["model"]
        card.data.base_model = model
        card.content = card.content.replace("a local model", f"[{model}](https://huggingface.co/{model})", 1)
        card.save(path)
    _add(path, "Parameters", "What decides the result of this training run, as in `manifest.json`:", identity)
    _add(path, "Provenance", "Commit of tampo, versions and machine:", provenance)


def _add(path: Path, heading: str, text: str, values: Mapping[str, Any]) -> None:
    card = ModelCard.load(path)
    if card.data.tags:
        card.data.tags = sorted(card.data.tags)  # TRL's come from a set, in any order
    plain = json.loads(json.dumps(values))  # YAML has no tuples
    listed = yaml.safe_dump(plain, allow_unicode=True, sort_keys=True)
    # TRL expects a base model from the hub.
    card.content = card.content.replace("[None](https://huggingface.co/None)", "a local model")
    card.content = f"{card.content.rstrip()}\n\n## {heading}\n\n{text}\n\n```yaml\n{listed}```\n"
    card.save(path)
