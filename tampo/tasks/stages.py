"""A training set that drifts: each stage of a training run unlocks further problems.

While a stage lasts, all problems unlocked so far are asked, the new ones among them. No schedule of the temperature can
know when a stage begins.
"""

import random
from collections.abc import Sequence

from tampo.tasks.lookups import unlocking_stage
from tampo.tasks.mini import Problem


def staged(problems: Sequence[Problem], stages: int, steps: int, prompts_per_step: int, seed: int) -> list[Problem]:
    """The problems of every step in order, `steps` times `prompts_per_step`; none twice in a step.

    In each stage its problems are gone through in random order, and again in another order; what would not fill a step
    is left out of a round, as TRL does.

    Args:
        problems: Of the family "lookups".
        stages: Of equal length; the last one takes the steps that are left.
        seed: Of the orders.

    Raises:
        ValueError: The first stage has fewer problems than a step needs.
    """
    rng = random.Random(f"stages {seed}")
    course: list[Problem] = []
    for stage in range(stages):
        unlocked = [problem for problem in problems if unlocking_stage(problem.metadata, stages) <= stage]
        if len(unlocked) < prompts_per_step:
            raise ValueError(f"stage {stage + 1} has {len(unlocked)} problems, a step needs {prompts_per_step}")
        end = steps if stage == stages - 1 else steps // stages * (stage + 1)
        while len(course) < end * prompts_per_step:
            order = rng.sample(unlocked, len(unlocked))
            whole = len(order) // prompts_per_step * prompts_per_step  # so that no step has a problem of two rounds
            course += order[: min(whole, end * prompts_per_step - len(course))]
    return course
