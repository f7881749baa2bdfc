"""Every parameter as an option of a command.

pydantic-settings reads names, types, defaults and meanings from `tampo.config.Params`; jsonargparse and tyro would need
a second description of its types. It is imported when a command is parsed, so that `tampo --help` waits for nothing.
What is given stays text, and `load_params` reads it, as in a notebook.
"""

import argparse
import difflib
import textwrap
from collections.abc import Sequence
from typing import Any

from tampo.extras import extra


class UsageError(Exception):
    """An option that does not exist, or lacks its value."""


class _WholeNames(argparse.HelpFormatter):
    """Breaks no line inside a name such as "entropy-match", which one may search for."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class ParameterParser(argparse.ArgumentParser):
    """The parser of a command. With `parameters`, each is an option, and `overrides` has the text of those given."""

    def __init__(self, *args: Any, parameters: bool = False, **settings: Any) -> None:
        super().__init__(*args, **{"formatter_class": _WholeNames} | settings)
        self._parameters = parameters
        self._names: list[str] = []  # of the parameters, once their options are there

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if not self._parameters:
            return super().parse_known_args(args, namespace)
        if not self._names:
            self._names = add_parameters(self)
        parsed, rest = super().parse_known_args([_as_option(word) for word in args or ()], namespace)
        if rest:
            raise UsageError(_unknown_parameter(rest[0], self._names))
        given = {name: getattr(parsed, name) for name in self._names if name in parsed}
        parsed.overrides = {
            name: ",".join(value) if isinstance(value, list) else value for name, value in given.items()
        }
        return parsed, []

    def error(self, message: str) -> Any:
        if not self._parameters:
            super().error(message)
        raise UsageError(f"{message}. `{self.prog} --help` lists all parameters.")


def add_parameters(parser: argparse.ArgumentParser) -> list[str]:
    """Give `parser` an option for each parameter, with its type, default and meaning; returns their names."""
    with extra("reproduce"):
        from pydantic_settings import BaseSettings, CliSettingsSource

        from tampo.config import Params

    class Options(Params, BaseSettings):  # type: ignore[misc]  # each has a model_config
        pass

    CliSettingsSource(Options, root_parser=parser, cli_kebab_case=True, formatter_class=argparse.HelpFormatter)
    return list(Params.model_fields)


def _as_option(word: str) -> str:
    """`--eval_problems`, as files and notebooks write it, as the option `--eval-problems`; a letter has one dash."""
    name, equals, value = word.partition("=")
    if not word.startswith("--") or len(name) < 3:
        return word
    return (name.replace("_", "-") if len(name) > 3 else name[1:]) + equals + value


def _unknown_parameter(word: str, known: Sequence[str]) -> str:
    if not word.startswith("-"):
        return f"{word!r} is not expected here: write --parameter VALUE."
    from tampo.config import RENAMED

    name = word.partition("=")[0].strip("-").replace("-", "_")
    if name in RENAMED:
        return f"--{name} is now {RENAMED[name]}."
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean --{near[0].replace('_', '-')}?" if near else "`tampo params` lists all parameters."
    return f"Unknown parameter {word.partition('=')[0]}. {hint}"
