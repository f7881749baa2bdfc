"""The `tampo` command."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

from tampo import __version__


def build_parser() -> argparse.ArgumentParser:
    """The command line; each subcommand imports what it needs when it runs."""
    parser = argparse.ArgumentParser(prog="tampo", description="Adaptive sampling temperature for LLM RL (TAMPO).")
    parser.add_argument("--version", action="version", version=f"tampo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    params = commands.add_parser("params", help="list every parameter with its value at a scale and its meaning")
    params.add_argument("scale", nargs="?", default="mini", help="a scale's name or a YAML file (default: mini)")
    params.set_defaults(run=_params)
    for name, run, text in (
        ("train", _train, "train, alone or under accelerate launch; goes on where a run was interrupted"),
        (
            "evaluate",
            _evaluate,
            "evaluate what `train` made with the same parameters (training it where it is missing)",
        ),
        ("plan", _plan, "tokens, memory of each GPU and hours of a training, before it is started"),
        ("overlaps", _overlaps, "training problems that are, word for word or nearly, in a benchmark"),
    ):
        command = commands.add_parser(name, help=text, epilog="Any parameter (`tampo params`) can follow: --alpha 0.1")
        command.add_argument("scale", help="a scale's name or a YAML file")
        command.set_defaults(run=run)
        if name == "plan":
            command.add_argument("--gpus", type=int, default=8, help="GPUs (default: 8)")
            command.add_argument("--zero-stage", type=int, choices=(0, 1, 2, 3), default=2, help="DeepSpeed ZeRO stage")
        if name == "evaluate":
            command.add_argument("--base", action="store_true", help="the model itself, untrained")
    _add_sweep(commands)
    reproduce = commands.add_parser("reproduce", help="make all tables and figures of a scale (hours; can be resumed)")
    reproduce.add_argument("scale", nargs="?", default="mini", help="smoke, mini or paper (default: mini)")
    reproduce.add_argument("--only", nargs="+", default=[], metavar="NOTEBOOK", help="these notebooks, such as table1")
    reproduce.add_argument("--seeds", help="training seeds, such as 0,1,2 (default: as in params)")
    reproduce.add_argument("--workers", type=int, help="runs side by side (default: one a core)")
    reproduce.set_defaults(run=_reproduce)
    build = commands.add_parser("build-mini-model", help="train one of the mini scale's base models (minutes)")
    build.add_argument("--name", default="mini", help="mini, mini-choice or mini-rare (default: mini)")
    build.add_argument("out_dir", help="folder to write the model to")
    build.add_argument("--seed", type=int, default=0)
    build.set_defaults(run=_build_mini_model)
    return parser


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser(
        "sweep",
        help="train and evaluate every controller with every seed: jobs on this machine, or on Slurm",
        description="Train and evaluate every controller with every seed, each in a job of its own (submitit). Runs "
        "that are there are found; the same command goes on after an interruption, and takes up its jobs on Slurm. A "
        "run that fails is tried once more, then reported; the exit status is 1.",
        epilog="Any parameter (`tampo params`) can follow, such as --alpha 0.1, or --workers 2: jobs at a time.",
        allow_abbrev=False,  # --controller is a parameter, not short for --controllers
    )
    sweep.add_argument("scale", help="a scale's name or a YAML file")
    sweep.add_argument("--seeds", help="such as 0-4 or 0,2,5 (default: as in params); repeated ones count once")
    sweep.add_argument("--controllers", help="such as tampo,fixed (default: all); repeated ones count once")
    sweep.add_argument(
        "--cluster", choices=("auto", "local", "slurm"), default="auto", help="default: slurm where it is installed"
    )
    sweep.add_argument(
        "--accelerate", metavar="FILE", help="train by accelerate launch, as in params/accelerate/8gpu-zero2.yaml"
    )
    sweep.add_argument(
        "--time", type=int, metavar="MINUTES", help="limit of a Slurm job, which then is requeued (default: a day)"
    )
    sweep.add_argument("--partition", help="of Slurm")
    sweep.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any option of sbatch, such as --slurm account=me --slurm cpus-per-task=8 --slurm exclusive",
    )
    sweep.set_defaults(run=_sweep)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 2 for what the user has to mend, 1 for runs of a sweep that
    failed and for a disk that is full or read-only, 130 after Ctrl-C or SIGTERM."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)

    from tampo.checkpoints import DamagedCheckpoint
    from tampo.config import ConfigError  # not before the parser, so that --help is quick
    from tampo.data import DataError

    try:
        if rest and options.command not in ("train", "evaluate", "plan", "overlaps", "sweep"):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        options.overrides = parse_overrides(rest)
        return options.run(options) or 0
    except (ConfigError, DataError, DamagedCheckpoint) as error:
        print(f"tampo: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        print(f"tampo: {error}. What was kept is whole; the same command goes on once it can write.", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(
            f"tampo: {str(interrupt) or 'Interrupted. The same command goes on from what was kept.'}", file=sys.stderr
        )
        return 130


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Parameters from `--name value` or `--name=value`; values are read as YAML, dashes in names as underscores.

    Raises:
        ConfigError: A word that is neither.

    Example:
        >>> parse_overrides(["--alpha", "0.1", "--eval-problems=null", "--seeds", "[0, 1]"])
        {'alpha': 0.1, 'eval_problems': None, 'seeds': [0, 1]}
    """
    import yaml

    from tampo.config import ConfigError

    overrides, waiting = {}, list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name or not (equals or waiting):
            raise ConfigError(f"Expected --parameter value, got {word!r}.")
        try:
            overrides[name.replace("-", "_")] = yaml.safe_load(value if equals else waiting.pop(0))
        except yaml.YAMLError as error:
            raise ConfigError(f"Cannot read the value of {name}: {error}") from error
    return overrides


def _train(options: argparse.Namespace) -> None:
    from tampo.config import load_params
    from tampo.runs import RunStore

    params = load_params(options.scale, options.overrides)
    record = RunStore.of(params).train(params.training())
    if record.manifest:  # the first of several processes
        print(f"Trained: {os.path.relpath(record.folder)}")


def _evaluate(options: argparse.Namespace) -> None:
    from tampo.config import load_params
    from tampo.evaluate import problem_scores
    from tampo.runs import RunStore

    params = load_params(options.scale, options.overrides)
    training = None if options.base else params.training()
    record = RunStore.of(params).evaluate(params.evaluation(), params.model, training)
    print(problem_scores(record.samples()).groupby("benchmark", sort=False).mean(numeric_only=True).round(1))
    print(f"Samples: {os.path.relpath(record.folder)}")


def _plan(options: argparse.Namespace) -> None:
    from tampo.config import load_params
    from tampo.plan import describe

    print(describe(load_params(options.scale, options.overrides), options.gpus, options.zero_stage))


def _overlaps(options: argparse.Namespace) -> None:
    from tampo.config import load_params
    from tampo.training_data import find_overlaps

    params = load_params(options.scale, options.overrides)
    pairs = find_overlaps(params.training())
    for training, evaluation, how in pairs:
        print(f"{training}\t{evaluation}\t{how}")
    known = len({training for training, *_ in pairs})
    print(f"{known} training problems are in a benchmark; drop_overlaps leaves them out", file=sys.stderr)


def _params(options: argparse.Namespace) -> None:
    from tampo.config import Params, load_params

    params = load_params(options.scale)
    for name, field in Params.model_fields.items():
        value = getattr(params, name)
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        print(f"{name} = {shown}\n    {field.description}")


def _reproduce(options: argparse.Namespace) -> None:
    from tampo.config import load_params
    from tampo.reproduce import reproduce

    params = load_params(options.scale, {"seeds": options.seeds, "workers": options.workers})
    reproduce(options.scale, params.seeds, options.only, params.workers)


def _sweep(options: argparse.Namespace) -> int:
    from pathlib import Path

    from tampo.config import ConfigError
    from tampo.controllers import CONTROLLERS
    from tampo.sweep import Resources, parse_controllers, parse_seeds, sweep

    controllers = tuple(CONTROLLERS) if options.controllers is None else parse_controllers(options.controllers)
    seeds = None if options.seeds is None else parse_seeds(options.seeds)
    given = [word.partition("=") for word in options.slurm]
    if options.time is not None and options.time < 1:
        raise ConfigError(f"--time must be at least a minute, got {options.time}.")
    resources = Resources(
        options.cluster,
        accelerate=Path(options.accelerate).resolve() if options.accelerate else None,
        minutes=options.time or Resources.minutes,
        partition=options.partition,
        slurm={name: value if equals else True for name, equals, value in given},
    )
    results = sweep(options.scale, controllers, seeds, options.overrides, resources)
    return int((results["state"] == "failed").any())


def _build_mini_model(options: argparse.Namespace) -> None:
    import torch

    from tampo.config import ConfigError
    from tampo.mini_model import RECIPES, build_mini_model

    if options.name not in RECIPES:
        raise ConfigError(f"Unknown model {options.name!r} in --name; known are {', '.join(RECIPES)}.")
    # More threads would split the sums differently, and the weights would differ in the last bits.
    torch.set_num_threads(1)
    build_mini_model(options.out_dir, RECIPES[options.name], options.seed)


if __name__ == "__main__":
    sys.exit(main())
