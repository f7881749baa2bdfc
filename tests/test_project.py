"""The project as a whole: pins agree, imports point down, examples run, nothing dangerous is called."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tampo

ROOT = Path(__file__).parents[1]
MODULES = sorted(path.stem for path in (ROOT / "tampo").glob("*.py") if not path.stem.startswith("__"))

# One rule a room: the rooms that it may import. Nothing below imports anything above; what stands alone at the top of
# tampo/ is the method and small things without opinions, which every room may use.
TOP = {
    "context", "decoding", "extras", "files", "likelihood", "likelihood_kernel", "meta_policy", "off_policy", "padding",
    "project", "stats", "values",
}  # fmt: skip
ROOMS = {
    "controllers": set(),
    "grading": set(),
    "config": {"controllers"},
    "options": {"config"},
    "tasks": {"grading"},
    "trainer": {"controllers"},
    "inference": {"config", "tasks"},
    "runs": {"config", "controllers", "inference", "tasks", "trainer"},
    "paper": {"config", "controllers", "grading", "inference", "runs", "tasks", "trainer"},
    "explore": {"config", "paper", "runs"},
    "cli": {"config", "controllers", "explore", "inference", "options", "paper", "runs", "tasks"},
}
FILES = sorted((ROOT / "tampo").rglob("*.py"))
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
    if path.stem not in ("__main__",)
)


def pins():
    """Every pinned version, by name."""
    pinned = {}
    for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines():
        pinned.setdefault(canonicalize_name((pin := Requirement(line)).name), []).append(str(pin.specifier)[2:])
    return pinned


def required():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(text) for group in groups for text in group]


def test_pins_satisfy_pyproject():
    pinned = pins()
    for requirement in required():
        name = canonicalize_name(requirement.name)
        assert name in {*pinned, "tampo"}, f"{name} is not pinned"
        for version in pinned.get(name, []):
            assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


def room(module):
    """The room of a dotted name: "runs" of tampo.runs.store; "config" of tampo.config."""
    return module.split(".")[1]


def imports(path):
    """The modules of tampo that a file imports, wherever in it, by their dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "tampo":
            yield from (f"tampo.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tampo."):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("tampo."))


def test_every_module_is_in_a_room():
    assert {room(module) for module in MODULES if module != "tampo"} == TOP | ROOMS.keys()


@pytest.mark.parametrize("name", [*ROOMS, *sorted(TOP)])
def test_imports_point_down(name):
    allowed = ROOMS.get(name, set()) | TOP | {name}
    for path in FILES:
        if path.relative_to(ROOT / "tampo").with_suffix("").parts[0] == name:
            for module in imports(path):
                if module != "tampo.__version__":
                    assert room(module) in allowed, f"{path.relative_to(ROOT)} imports {module}"
                else:
                    assert name == "cli", "the version is for the command line; metadata has it for all else"


def test_rooms_have_no_circle():
    """The order of ROOMS is the order of floors."""
    floors = [*ROOMS]
    assert all(floors.index(below) < floors.index(name) for name in ROOMS for below in ROOMS[name])


def test_every_room_says_what_it_is():
    for name in ROOMS.keys() - {"options", "cli"}:
        text = (ROOT / "tampo" / name / "__init__.py").read_text()
        assert text.startswith('"""'), name


def test_meta_policy_needs_numpy_alone():
    code = "import sys, tampo.meta_policy; print(*(m for m in ('torch', 'trl', 'pandas', 'scipy') if m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == ""


def test_import_tampo_loads_nothing_heavy():
    code = "import sys, tampo.cli; tampo.__version__; tampo.cli.build_parser(); "
    code += "print(*(m for m in ('torch', 'numpy', 'trl', 'submitit') if m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == ""


def doc_of(name):
    return getattr(tampo, name).__doc__ or ""


@pytest.mark.parametrize("name", tampo.__all__)
def test_public_names_are_there_and_documented(name):
    value = getattr(tampo, name)
    if name != "__version__":
        assert value.__doc__
        assert value.__name__ == name
        code = [example.source for n in tampo.__all__ for example in doctest.DocTestParser().get_examples(doc_of(n))]
        assert any(name in source for source in code), "no example, which test_examples_in_docstrings would run"


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Sampler"):
        _ = tampo.Sampler


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if module == "tampo.likelihood_kernel":
        pytest.importorskip("triton", reason="Triton is not installed")
    imported = importlib.import_module(module)
    with suppress(ImportError):  # which greets on stdout when it is first used
        from deepspeed.accelerator import get_accelerator

        get_accelerator()
    failed, _ = doctest.testmod(imported, extraglobs={"torch": torch})
    assert failed == 0


FORBIDDEN = (
    r"(?<![\w.])eval\(",
    r"(?<![\w.])exec\(",
    r"\b(import|from) (pickle|cloudpickle|dill|joblib|marshal|shelve)\b",
    r"\btorch\.load\(",
    r"\bread_pickle\(|allow_pickle\s*=\s*True",
    r"yaml\.(load|full_load|unsafe_load)\(",
    r"trust_remote_code\s*=\s*True",
    r"shell\s*=\s*True|os\.system\(|os\.popen\(",
    r"weights_only\s*=\s*False",
)


@pytest.mark.parametrize("module", MODULES)
def test_nothing_from_a_model_or_config_is_executed(module):
    path = ROOT / Path(*module.split("."))
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    for pattern in FORBIDDEN:
        assert not re.search(pattern, text), pattern


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["params", "smoke"], ["build-mini-model", "--help"], ["sweep", "--help"]],
)
def test_command_line(arguments, capsys):
    from tampo.cli import main

    try:
        assert main(arguments) == 0
    except SystemExit as stop:
        assert stop.code == 0
    assert "tampo" in (text := capsys.readouterr().out) or "alpha = 0.05" in text


@pytest.mark.parametrize("command", ["train", "evaluate", "plan", "overlaps", "sweep"])
def test_help_lists_every_parameter_with_type_default_and_meaning(command, capsys):
    from tampo.cli import main
    from tampo.config import Params

    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    for name, field in Params.model_fields.items():
        option = f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}"
        meaning = re.sub(r"\s+", " ", field.description)
        assert re.search(rf"{option} \S.*?{re.escape(meaning)} \(default: ", said), name
    assert "--eval-problems {int,null}" in said
    assert "--alpha float" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--eval-problems", "null"], {"eval_problems": None}),
        (["--eval_problems=null", "--train-problems", "5"], {"eval_problems": None, "train_problems": 5}),
        (["--seeds", "0-4"], {"seeds": (0, 1, 2, 3, 4)}),
        (["--seeds", "[0, 2]", "--p", "0.3"], {"seeds": (0, 2), "p": 0.3}),
        (["--temperature-candidates", "0.6,1.0", "-p", "0"], {"temperature_candidates": (0.6, 1.0), "p": 0.0}),
        (["--alpha", "None", "--max-steps", ""], {"alpha": 0.05, "max_steps": 3}),
        (["--learning-rate", "1e-4", "--drop-overlaps", "true"], {"learning_rate": 1e-4, "drop_overlaps": True}),
        (
            ["--temperature-controller", "fixed", "--benchmarks", "[]"],
            {"temperature_controller": "fixed", "benchmarks": ()},
        ),
    ],
)
def test_options_mean_what_they_mean_in_a_file(words, expected):
    from tampo.cli import build_parser
    from tampo.config import load_params

    options = build_parser().parse_args(["train", "smoke", *words])
    params = load_params(options.params, options.overrides)
    assert {name: getattr(params, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--alhpa", "0.1"], "Unknown parameter --alhpa. Did you mean --alpha?"),
        (["--controller", "tampo"], "--controller is now temperature_controller"),
        (["0.1"], "'0.1' is not expected here"),
        (["--alpha"], "--alpha: expected one argument"),
    ],
)
def test_unknown_options_are_refused(words, message, capsys):
    from tampo.cli import main

    assert main(["train", "smoke", *words]) == 2
    assert message in capsys.readouterr().err


def test_command_line_names_the_unknown_scale(capsys):
    from tampo.cli import main

    assert main(["params", "maxi"]) == 2
    assert "No scale 'maxi'" in capsys.readouterr().err


def test_citation_is_of_this_version():
    """That it is valid CFF was checked by cffconvert, which needs an older jsonschema than Jupyter."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", tampo.__version__)
    assert {"title", "message", "authors", "license"} <= citation.keys()
    assert "2602.11779" in citation["references"][0]["url"]
