"""Names in the training log and in TRL's table of completions: those of tampo and those of reward functions stay apart.

A reward function can log metrics and columns by TRL's `log_metric` and `log_extra`. TRL logs the mean of all values
with the same name, and joins all values of the same column. So a name that tampo uses is refused to all others.
"""

from collections.abc import Mapping

from trl import GRPOTrainer

from tampo.trainer.trl_internals import columns_of_rewards, metrics_of_rewards, reward_names, training_metrics

# `reward` is TRL's: controllers read it.
METRICS = frozenset({"temperature", "reward", "skipped_steps"})
METRIC_PREFIXES = ("meta_policy/", "controller/", "optimal_temperature/", "reward_at/", "sampler/", "loss/")
COLUMNS = frozenset({"temperature", "log_likelihoods"})


class LogNames:
    """Refuses names that two sources would log.

    Raises:
        ValueError: A reward function has the name of one of tampo's columns, and `log_completions` asks for the table.
    """

    def __init__(self, trainer: GRPOTrainer) -> None:
        self._trainer = trainer
        self._written: set[str] = set()  # metrics of `write`
        for name in COLUMNS.intersection(reward_names(trainer)) if trainer.log_completions else ():
            raise ValueError(
                f"A reward function is called {name!r}, which is a column of tampo in TRL's table of completions. Give "
                "it another __name__, or set log_completions=False."
            )

    def check_rewards(self, rows: int) -> None:
        """Check what the reward functions have just logged about `rows` completions of this process.

        Raises:
            ValueError: A metric or column has a name of tampo, a column that of a reward function, or a column has
                more or fewer values than completions; the message names it.
        """
        for name in metrics_of_rewards(self._trainer):
            if name in METRICS | self._written or name.startswith(METRIC_PREFIXES):
                raise ValueError(
                    f"A reward function logs the metric {name!r} (log_metric), and tampo uses this name. Rename it, "
                    f"for example to 'my_{name}'."
                )
        if not self._trainer.log_completions:
            return
        for name, values in columns_of_rewards(self._trainer).items():
            if name in COLUMNS.union(reward_names(self._trainer)):
                raise ValueError(
                    f"A reward function logs the column {name!r} (log_extra), and TRL's table of completions has "
                    f"another one of this name. Rename it, for example to 'my_{name}'."
                )
            if len(values) != rows:
                raise ValueError(
                    f"Reward functions log {len(values)} values of the column {name!r} (log_extra) for {rows} "
                    "completions. Log one per completion, and give columns of two reward functions two names."
                )

    def write(self, metrics: Mapping[str, float]) -> None:
        """Add metrics of tampo and of the controller to the next row of the training log.

        Raises:
            ValueError: TRL, a reward function or a callback logs one of them; the message names it.
        """
        log = training_metrics(self._trainer)
        for name in metrics.keys() - self._written:
            if log.get(name):
                raise ValueError(
                    f"The controller logs the metric {name!r}, and so does TRL, a reward function or a callback. "
                    "Rename one of them."
                )
        self._written |= metrics.keys()
        for name, value in metrics.items():
            log[name].append(float(value))
