"""What a trained model's card says beside TRL's own text: the rule that set the temperature, parameters, provenance."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from tampo import __version__
from tampo.control import ControllerSettings
from tampo.controllers import CONTROLLERS

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


def add_temperature(path: Path, controller: str, settings: ControllerSettings) -> None:
    """Say in the card at `path` which rule set the sampling temperature, and with which parameters."""
    rule = CONTROLLERS[controller]
    read = sorted({*rule.parameters, "temperatures", "seed"})
    values = {name: getattr(settings, name) for name in read}
    _add(
        path,
        "Sampling temperature",
        f"Set in each generation batch by the rule `{controller}` of [tampo](https://arxiv.org/abs/{PAPER['id']}) "
        f"{__version__}: {(rule.__doc__ or '').splitlines()[0]}",
        values,
    )


def add_run(path: Path, identity: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Say in the card at `path` what the run is known by in the store, and what it was made with."""
    _add(path, "Parameters", "What decides the result of this training, as in `manifest.json`:", identity)
    _add(path, "Provenance", "Commit of tampo, versions and machine:", provenance)


def _add(path: Path, heading: str, text: str, values: Mapping[str, Any]) -> None:
    card = ModelCard.load(path)
    if card.data.tags:
        card.data.tags = sorted(card.data.tags)  # TRL's come out of a set: the same card twice
    plain = json.loads(json.dumps(values))  # tuples are no YAML
    listed = yaml.safe_dump(plain, allow_unicode=True, sort_keys=True)
    # TRL knows no base model but one of the hub.
    card.content = card.content.replace("[None](https://huggingface.co/None)", "a local model")
    card.content = f"{card.content.rstrip()}\n\n## {heading}\n\n{text}\n\n```yaml\n{listed}```\n"
    card.save(path)
