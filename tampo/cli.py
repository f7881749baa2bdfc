"""The `tampo` command: each subcommand imports what it needs when it runs."""

import argparse
import errno
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tampo import __version__
from tampo.extras import extra
from tampo.options import ParameterParser, UsageError
from tampo.project import BadPath


def build_parser() -> argparse.ArgumentParser:
    """The command line; each command imports what it needs when it runs."""
    parser = argparse.ArgumentParser(prog="tampo", description="Adaptive sampling temperature for LLM RL (TAMPO).")
    parser.add_argument("--version", action="version", version=f"tampo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=ParameterParser)
    init = commands.add_parser("init", help="write the parameters and notebooks of this version into a folder")
    init.add_argument("folder", metavar="DIR", help="a new folder, or one without params/ and notebooks/")
    init.set_defaults(run=_init)
    params = commands.add_parser("params", help="list every parameter with its value at a scale and its meaning")
    params.add_argument("params", nargs="?", default="mini", metavar="SCALE", help=f"{_SCALE} (default: mini)")
    params.set_defaults(run=_params)
    _add(commands, "train", _train, "train a model, alone or under accelerate launch; an interrupted run is resumed")
    evaluate = _add(commands, "evaluate", _evaluate, "evaluate the model of `train` with the same parameters")
    evaluate.add_argument("--base", action="store_true", help="the model itself, untrained")
    plan = _add(
        commands,
        "plan",
        _plan,
        "memory, disk and time of a training run before it starts; exit status 1 if it does not fit",
    )
    plan.add_argument("--gpu", default="h100", help="h100 (default), h200, a100, l40s or rtx4090")
    plan.add_argument("--accelerate", metavar="FILE", help="GPUs and DeepSpeed as in params/accelerate/8gpu-zero2.yaml")
    plan.add_argument("--gpus", type=int, help="GPUs of all machines (default: those of --accelerate, or 8)")
    plan.add_argument(
        "--zero-stage", type=int, choices=(0, 1, 2, 3), help="of DeepSpeed, without --accelerate (default: 2)"
    )
    plan.add_argument("--host-ram", type=float, metavar="GB", help="of each machine, to say whether it is enough")
    plan.add_argument("--disk", type=float, metavar="GB", help="free, to say whether it is enough")
    _add(commands, "overlaps", _overlaps, "list training problems that are, word for word or nearly, in a benchmark")
    _add_sweep(commands)
    reproduce = commands.add_parser("reproduce", help="make all tables and figures of a scale (hours; can be resumed)")
    reproduce.add_argument("params", nargs="?", default="mini", metavar="SCALE", help="smoke, mini (default) or paper")
    reproduce.add_argument("--only", nargs="+", default=[], metavar="NOTEBOOK", help="these notebooks, such as table1")
    reproduce.add_argument("--seeds", help="training seeds, such as 0-4 (default: as in params)")
    reproduce.add_argument("--workers", help="runs side by side (default: one a core)")
    reproduce.add_argument("--output-dir", metavar="DIR", help="for the results (default: results/SCALE)")
    reproduce.add_argument(
        "--from-reference",
        action="store_true",
        help="from the records of the committed results, without training, into results/SCALE/from-reference",
    )
    reproduce.add_argument(
        "--reference",
        action="store_true",
        help="write the committed results, results/reference/SCALE; in a clean checkout only. With --from-reference: "
        "from its own records, by the present code",
    )
    reproduce.set_defaults(run=_reproduce)
    _add_comparisons(commands)
    clean = commands.add_parser("clean-runs", help="delete all stored runs of a scale; says how many hours, and asks")
    clean.add_argument("params", nargs="?", default="mini", metavar="SCALE", help="the scale (default: mini)")
    clean.add_argument("--yes", action="store_true", help="do not ask")
    clean.set_defaults(run=_clean_runs)
    build = commands.add_parser("build-mini-model", help="train one of the mini scale's base models (minutes)")
    build.add_argument("--name", default="mini", help="mini, mini-choice, mini-facts or mini-rare (default: mini)")
    build.add_argument("out_dir", help="folder to write the model to")
    build.add_argument("--seed", type=int, default=0)
    build.set_defaults(run=_build_mini_model)
    return parser


_SCALE = "a scale's name (smoke, mini, paper) or the path of a YAML file"


def _add(commands: Any, name: str, run: Any, text: str, **settings: Any) -> argparse.ArgumentParser:
    """A command that takes a scale and every parameter."""
    command = commands.add_parser(
        name,
        parameters=True,
        help=text,
        usage=f"tampo {name} SCALE [--parameter VALUE ...]",
        description=settings.pop("description", f"{text[0].upper()}{text[1:]}."),
        epilog="A parameter that is not given is as in the scale's file. null means no limit where a parameter allows "
        "it; lists are written 0.6,1.0 or [0.6, 1.0], seeds also 0-4.",
        allow_abbrev=False,  # --controller is a parameter, and not short for --controllers
    )
    command.add_argument("params", metavar="SCALE", help=_SCALE)
    command.set_defaults(run=run)
    return command


def _add_comparisons(commands: Any) -> None:
    verify = commands.add_parser(
        "verify",
        help="compare your results with the committed ones; exit status 1 where anything is different",
        description="Compare results with the reference, row by row: equal to the bit, equal within rounding, inside "
        "the interval (one value lies in the other's 95 % interval), different, or not run. Writes verify.md and "
        "verify.json beside them. Exit status: 0 nothing differs, 1 something does, 2 nothing could be compared.",
    )
    verify.add_argument("results", nargs="?", default="mini", metavar="SCALE|FOLDER", help="default: mini")
    verify.add_argument("--only", nargs="+", default=[], metavar="NOTEBOOK", help="these notebooks, such as table1")
    verify.add_argument("--seeds", metavar="SEEDS", help="what `tampo reproduce SCALE --seeds SEEDS` made, such as 0-4")
    verify.add_argument("--full", action="store_true", help="read every file of the runs behind the results, too")
    verify.add_argument(
        "--allow-version", action="store_true", help="compare with a reference that another version made"
    )
    verify.add_argument("--reference", metavar="FOLDER", help="default: results/reference/SCALE")
    verify.set_defaults(run=_verify)
    diff = commands.add_parser("diff", help="compare two folders of results; exit status as for verify")
    diff.add_argument("one", metavar="A", help="the folder to compare with")
    diff.add_argument("other", metavar="B", help="the folder to judge")
    diff.set_defaults(run=_diff)


def _add_sweep(commands: Any) -> None:
    sweep = _add(
        commands,
        "sweep",
        _sweep,
        "train and evaluate every controller with every seed: jobs on this machine, or on Slurm",
        description="Train and evaluate every controller with every seed, each in a job of its own. Existing runs are "
        "reused; the same command resumes after an interruption, and takes up its jobs on Slurm. A run that fails is "
        "tried once more, then reported; the exit status is 1.",
    )
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 2 for what the user has to mend, 1 for runs and notebooks
    that failed and for a disk that is full or read-only, 130 after Ctrl-C or SIGTERM."""
    expected: tuple[type[Exception], ...] = (UsageError, ImportError, BadPath)
    failed: tuple[type[Exception], ...] = (FloatingPointError,)
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter shows its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        options = build_parser().parse_args(arguments)
        if options.command != "init":
            with extra("reproduce"):
                from tampo.config import ConfigError
                from tampo.context import UnsuitableModel
                from tampo.runs.checkpoints import DamagedCheckpoint
                from tampo.runs.store import MissingRecord
                from tampo.runs.workers import RunFailed
                from tampo.tasks.published import DataError

                failed += (RunFailed,)
                expected += (ConfigError, DataError, DamagedCheckpoint, MissingRecord, UnsuitableModel)
        status = options.run(options) or 0
        sys.stdout.flush()
        return status
    except expected as error:
        print(f"tampo: {error}", file=sys.stderr)
        return 2
    except failed as error:  # its message has the end of the log
        print(f"tampo: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # who reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _system_error(error)
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if type(error).__name__ != "SafetensorError" or number is None:
            raise
        return _system_error(OSError(int(number[1]), str(error)))
    except KeyboardInterrupt as interrupt:
        print(f"tampo: {str(interrupt) or 'Interrupted. The same command resumes from there.'}", file=sys.stderr)
        return 130


_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_IN_THE_WAY = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTEMPTY}


def _system_error(error: OSError) -> int:
    """Say what the system refused, and return the exit status; raises what no user can mend."""
    if error.errno in _NO_SPACE:
        text, status = f"{error}. What was written is whole; the same command resumes once it can write.", 1
    elif error.errno in _IN_THE_WAY:
        text, status = f"{error}. Give another path, or move away what is there.", 2
    elif isinstance(error, FileExistsError):
        text, status = str(error), 2
    elif isinstance(error, ConnectionError):
        text, status = str(error), 1
    else:
        raise error
    print(f"tampo: {text}", file=sys.stderr)
    return status


def _init(options: argparse.Namespace) -> None:
    from tampo.project import init_project, user_path

    if not options.folder.strip():
        raise BadPath("the folder '' cannot be used: give a name, or . for this one.")
    folder = user_path(options.folder, "the folder")
    for written in init_project(folder, __version__):
        print(f"Written: {written}")
    print(f"Next: cd {folder}, then `jupyter lab`, or `papermill notebooks/table1.ipynb table1.ipynb -p params smoke`.")


def _train(options: argparse.Namespace) -> None:
    from tampo.config import load_params, refuse_idle
    from tampo.runs.pipeline import train
    from tampo.runs.store import RunStore

    params = load_params(options.params, options.overrides)
    refuse_idle(options.overrides, [params.training()])
    record = train(RunStore.of(params), params.training())
    if record.manifest:  # the first of several processes
        print(f"Trained: {os.path.relpath(record.folder)}")


def _evaluate(options: argparse.Namespace) -> None:
    from tampo.config import load_params, refuse_idle
    from tampo.inference.evaluate import problem_scores
    from tampo.runs.pipeline import evaluate
    from tampo.runs.store import RunStore

    params = load_params(options.params, options.overrides)
    training = None if options.base else params.training()
    if training:
        refuse_idle(options.overrides, [training])
    record = evaluate(RunStore.of(params), params.evaluation(), params.model, training, params.workers)
    print(problem_scores(record.samples()).groupby("benchmark", sort=False).mean(numeric_only=True).round(1))
    print(f"Samples: {os.path.relpath(record.folder)}")


def _plan(options: argparse.Namespace) -> int:
    from tampo.config import load_params
    from tampo.runs.plan import NO_FIT, describe
    from tampo.runs.plan_gpus import choose_layout, find_gpu

    params = load_params(options.params, options.overrides)
    layout = choose_layout(options.accelerate, options.gpus, options.zero_stage)
    text = describe(params, layout, find_gpu(options.gpu, params.precision), options.host_ram, options.disk)
    print(text)
    return int(NO_FIT in text)


def _overlaps(options: argparse.Namespace) -> None:
    from tampo.config import load_params
    from tampo.runs.training_data import find_overlaps

    params = load_params(options.params, options.overrides)
    pairs = find_overlaps(params.training())
    for training, evaluation, how in pairs:
        print(f"{training}\t{evaluation}\t{how}")
    known = len({training for training, *_ in pairs})
    print(f"{known} training problems are in a benchmark; drop_overlaps leaves them out", file=sys.stderr)


def _params(options: argparse.Namespace) -> None:
    from tampo.config import Params, load_params
    from tampo.controllers.registry import describe_controllers

    params = load_params(options.params)
    for name, field in Params.model_fields.items():
        value = getattr(params, name)
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        print(f"{name} = {shown}\n    {field.description}")
    print(f"\nParameters of controllers, for temperature_controller_kwargs:\n{describe_controllers()}")


def _reproduce(options: argparse.Namespace) -> None:
    from tampo.config import ConfigError, load_params
    from tampo.paper.reference import rewrite_reference, write_reference
    from tampo.paper.reproduce import from_reference, reproduce
    from tampo.project import user_path

    params = load_params(options.params, {"seeds": options.seeds, "workers": options.workers})
    load_params(options.params, {"output_dir": options.output_dir})  # refuses a remote folder
    seeds = params.seeds if options.seeds else None
    output = user_path(options.output_dir, "--output-dir") if options.output_dir else None
    if options.reference:
        if options.only or output:
            raise ConfigError("--reference writes all of results/reference/SCALE: leave --only and --output-dir out.")
        if options.from_reference:
            if seeds:
                raise ConfigError("--reference --from-reference keeps the seeds of the reference: leave --seeds out.")
            rewrite_reference(options.params)
            return
        write_reference(options.params, seeds, params.workers)
    elif options.from_reference:
        from_reference(options.params, seeds, options.only, output)
    else:
        reproduce(options.params, seeds, options.only, params.workers, output)


def _verify(options: argparse.Namespace) -> int:
    from tampo.paper.outputs import read_manifests, reference_folder
    from tampo.paper.verify import report, results_of, verify
    from tampo.project import user_path

    folder = results_of(options.results, options.seeds)
    params = [manifest.get("params") for manifest in read_manifests(folder).values()]
    scales = [values["scale"] for values in params if isinstance(values, dict) and "scale" in values]
    reference = (
        user_path(options.reference, "--reference")
        if options.reference
        else reference_folder(scales[0] if scales else folder.name)
    )
    found = verify(folder, reference, options.only, options.full, options.allow_version)
    print(report(found))
    return int(bool(found.different))


def _diff(options: argparse.Namespace) -> int:
    from tampo.paper.verify import diff, report
    from tampo.project import user_path

    found = diff(user_path(options.one, "A"), user_path(options.other, "B"))
    print(report(found))
    return int(bool(found.different))


def _clean_runs(options: argparse.Namespace) -> int:
    from tampo.config import ConfigError
    from tampo.project import project_root
    from tampo.runs.store import RunStore

    store = RunStore.named(options.params)
    if not store.root.is_dir():
        others = [path.parent.name for path in (project_root() / "results").glob("*/runs")]
        named = f" There are some of {', '.join(sorted(others))}." if others else ""
        print(f"There are no runs in {os.path.relpath(store.root)}.{named}")
        return 0
    records = list(store.records())
    unfinished = len([path for path in store.root.iterdir() if path.is_dir()]) - len(records)
    taken = [record.manifest.get("seconds") for record in records]
    hours = sum(seconds for seconds in taken if isinstance(seconds, int | float)) / 3600
    print(
        f"{os.path.relpath(store.root)} has {len(records)} finished runs and evaluations, which took {hours:.1f} "
        f"hours, and {unfinished} that are not finished."
    )
    if not options.yes:
        try:
            answer = input("Delete them all? [y/N] ")
        except EOFError:
            raise ConfigError(
                "Nothing was deleted: there is nobody to ask. --yes deletes without a question."
            ) from None
        if answer.strip().lower() not in ("y", "yes"):
            print("Nothing was deleted.")
            return 1
    store.delete()
    print("Deleted.")
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from tampo.config import ConfigError
    from tampo.controllers.registry import CONTROLLERS
    from tampo.runs.sweep import Resources, parse_controllers, sweep

    controllers = tuple(CONTROLLERS) if options.controllers is None else parse_controllers(options.controllers)
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
    results = sweep(options.params, controllers, None, options.overrides, resources)
    return int((results["state"] == "failed").any())


def _build_mini_model(options: argparse.Namespace) -> None:
    import torch

    from tampo.config import ConfigError
    from tampo.config.model import MAX_SEED
    from tampo.tasks.mini_model import RECIPES, build_mini_model

    if not 0 <= options.seed <= MAX_SEED:
        raise ConfigError(f"--seed must be between 0 and {MAX_SEED}, got {options.seed}.")
    if options.name not in RECIPES:
        raise ConfigError(f"Unknown model {options.name!r} in --name; known are {', '.join(RECIPES)}.")
    # More threads would split the sums differently, and the weights would differ in the last bits.
    torch.set_num_threads(1)
    build_mini_model(options.out_dir, RECIPES[options.name], options.seed)


if __name__ == "__main__":
    sys.exit(main())
