"""The base models that are shipped: where they are, and the recipes that `tampo.tasks.mini_model` builds them from."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tampo.tasks.mini import CHOICE_TASKS, FACT_TASKS, TASKS


@dataclass(frozen=True)
class Recipe:
    """Supervised training of a base model: flawless solutions, then those of a noisy teacher (`worked_solution`)."""

    tasks: tuple[str, ...] = TASKS  # families of `tampo.tasks.mini`
    steps: int = 4200  # optimizer steps
    noisy_share: float = 0.25  # share of the steps, the last ones, with the noisy teacher
    slip: float = 0.1  # its probability of a wrong value
    skip: float = 0.25  # of an answer without steps
    give_up: float = 0.0  # of no answer
    habit: float = 0.0  # of the value that it is used to, where that is wrong
    problems_per_task: int = 3500  # training problems per family
    batch_size: int = 32  # solutions per step
    learning_rate: float = 3e-3  # peak; a third of it in the noisy steps


RECIPES: dict[str, Recipe] = {
    "mini": Recipe(),
    # Multiple choice (Table 5).
    "mini-choice": Recipe(tasks=CHOICE_TASKS, steps=1000, slip=0.2, skip=0.25, problems_per_task=8000),
    # Rarely writes the steps to the answer: a base model that must explore.
    "mini-rare": Recipe(slip=0.0, skip=0.0, give_up=0.95),
    # Wrong by habit about most facts: many rare discoveries. All steps are noisy, since a flawless phase would teach
    # the facts themselves.
    "mini-facts": Recipe(
        tasks=FACT_TASKS,
        steps=2000,
        noisy_share=1.0,
        slip=0.03,
        skip=0.0,
        habit=0.95,
        problems_per_task=760,
        learning_rate=9e-3,
    ),
}


def mini_model_path(name: str = "mini") -> Path:
    """The folder of a model of `RECIPES` in the package. Raises FileNotFoundError where it is missing."""
    folder = Path(str(files("tampo").joinpath("assets", name)))
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"no model in {folder}; build it: tampo build-mini-model --name {name} {folder}")
    return folder
