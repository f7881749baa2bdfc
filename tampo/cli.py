"""The `tampo` command."""

import argparse
import sys
from collections.abc import Sequence

from tampo import __version__


def build_parser() -> argparse.ArgumentParser:
    """The command line; each subcommand imports what it needs when it runs."""
    parser = argparse.ArgumentParser(prog="tampo", description="Adaptive sampling temperature for LLM RL (TAMPO).")
    parser.add_argument("--version", action="version", version=f"tampo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    params = commands.add_parser("params", help="list every parameter with its value at a scale and its meaning")
    params.add_argument("scale", nargs="?", default="mini", help="a scale's name or a YAML file (default: mini)")
    params.set_defaults(run=_params)
    build = commands.add_parser("build-mini-model", help="train the mini scale's base model from a seed (minutes)")
    build.add_argument("out_dir", help="folder to write the model to")
    build.add_argument("--seed", type=int, default=0)
    build.set_defaults(run=_build_mini_model)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status, 2 for a bad parameter, which is explained on stderr."""
    from tampo.config import ConfigError

    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except ConfigError as error:
        print(f"tampo: {error}", file=sys.stderr)
        return 2
    return 0


def _params(options: argparse.Namespace) -> None:
    from tampo.config import Params, load_params

    params = load_params(options.scale)
    for name, field in Params.model_fields.items():
        value = getattr(params, name)
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        print(f"{name} = {shown}\n    {field.description}")


def _build_mini_model(options: argparse.Namespace) -> None:
    import torch

    from tampo.mini_model import build_mini_model

    torch.set_num_threads(1)  # more would split the sums differently: other bits
    build_mini_model(options.out_dir, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
