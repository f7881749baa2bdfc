"""`make release-check` finds what is wrong: each check with a checkout, an archive or a reference that is broken."""

import io
import json
import shutil
import subprocess
import tarfile
import zipfile

import pytest

import archives
import release_check
from tests.helpers import ROOT

CFF = "cff-version: 1.2.0\nversion: 1.2.3\nrepository-code: https://example.org/tampo\n"
FILES = {
    "pyproject.toml": '[project]\ndependencies = ["numpy>=2.0"]\noptional-dependencies = {gpu = ["vllm>=0.31,<0.32"]}\n'
    '[tool.hatch.version]\npath = "tampo/__init__.py"\n'
    '[tool.hatch.build.targets.sdist]\ninclude = ["/tampo", "/params", "/notebooks", "/CHANGELOG.md"]\n',
    "tampo/__init__.py": '__version__ = "1.2.3"\n',
    "tampo/py.typed": "",
    "tampo/assets/README.md": "| folder | licence | from |\n|---|---|---|\n| `mini` | Apache-2.0 | us |\n",
    "tampo/assets/mini/model.safetensors": "weights",
    "params/mini.yaml": "",
    "notebooks/table1.ipynb": '{"cells": [{"outputs": []}]}',
    "LICENSE": "Apache",
    "CITATION.cff": CFF,
    "CHANGELOG.md": "# Changelog\n\n## [1.2.3] - 2026-12-31\n\n## [1.2.2] - 2026-01-01\n",
    "CONTRIBUTING.md": "# Contributing\n",
    "README.md": "# A page\n\n[changes](CHANGELOG.md#123---2026-12-31) [web](https://example.org/x#y) [up](#a-page)\n",
    ".ci/lock.py": "",
    ".ci/constraints-vllm.txt": "# pins\nvllm==0.31.0\nnumpy==2.3.5\n",
}


def git(folder, *words):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words], cwd=folder, check=True)


@pytest.fixture
def checkout(tmp_path):
    """A small project in which every check is green."""
    folder = tmp_path / "checkout"
    for name, text in FILES.items():
        write(folder, name, text)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


def write(folder, name, text):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


@pytest.mark.parametrize("check", ["versions", "links", "licences"])
def test_this_checkout(check):
    assert getattr(release_check, check)(ROOT) == []


CHECKS = ("clean_tree", "versions", "release_fields", "links", "licences", "locks")


@pytest.mark.parametrize("check", CHECKS)
def test_a_whole_checkout_passes(checkout, check):
    assert getattr(release_check, check)(checkout) == []


@pytest.mark.parametrize(
    ("check", "name", "text", "problem"),
    [
        ("clean_tree", "tampo/new.py", "", "not committed: tampo/new.py"),
        ("versions", "CITATION.cff", "version: 1.2.2\n", "CITATION.cff has '1.2.2', tampo '1.2.3'"),
        (
            "versions",
            "CHANGELOG.md",
            "## [1.3.0]\n## [1.2.3]\n",
            "CHANGELOG.md's newest heading has '1.3.0', tampo '1.2.3'",
        ),
        ("versions", "tampo/__init__.py", '__version__ = "2.0"\n', "CITATION.cff has '1.2.3', tampo '2.0'"),
        (
            "release_fields",
            "CITATION.cff",
            "version: 1.2.3\n",
            "repository-code: missing in CITATION.cff, set it before a release",
        ),
        ("release_fields", "CHANGELOG.md", "## [1.2.3] - unreleased\n", "date: CHANGELOG.md's newest heading"),
        ("links", "docs/a.md", "[x](../gone.md)", "docs/a.md: ../gone.md"),
        ("links", "docs/a.md", "[x](../README.md#gone)", "docs/a.md: ../README.md#gone"),
        ("links", "README.md", "# A page\n[x](#another-page)", "README.md: #another-page"),
        ("licences", "tampo/assets/other/model.safetensors", "", "tampo/assets/other has no licence"),
        ("licences", "tampo/assets/README.md", "| `mini` |  | us |\n", "tampo/assets/mini has no licence"),
        ("licences", "CONTRIBUTING.md", "Copyright (c) " + "2020 A. Body", "CONTRIBUTING.md names an owner"),
        ("licences", "README.md", "SPDX-License-" + "Identifier: MIT", "README.md names an owner"),
        ("locks", ".ci/lock.py", "raise SystemExit('Out of date: x.')", "Out of date: x."),
        ("locks", ".ci/lock.py", "raise SystemExit(1)", "uv.lock is not that of pyproject.toml"),
        (
            "locks",
            ".ci/constraints-vllm.txt",
            "vllm==0.33.0\n",
            ".ci/constraints-vllm.txt has vllm 0.33.0, pyproject.toml asks for vllm<0.32,>=0.31",
        ),
    ],
)
def test_what_is_wrong_is_found(checkout, check, name, text, problem):
    write(checkout, name, text)
    found = getattr(release_check, check)(checkout)
    assert any(line.startswith(problem) for line in found), found


def make_wheel(path, without=(), **more):
    """A wheel of the small project, made by hand."""
    about = "tampo-1.2.3.dist-info"
    files = {name: text for name, text in FILES.items() if name.startswith("tampo/")}
    files |= {f"tampo/bundled/{name}": FILES[name] for name in ("params/mini.yaml", "notebooks/table1.ipynb")}
    files |= {f"{about}/{name}": "" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    with zipfile.ZipFile(path, "w") as file:
        for name, text in (files | more).items():
            if name not in without:
                file.writestr(name, text)
    return path


def make_sdist(path, without=(), **more):
    files = {name: text for name, text in FILES.items() if name != ".ci/lock.py" and name != ".ci/constraints-vllm.txt"}
    files |= dict.fromkeys((".ci/constraints.txt", ".gitignore", ".tampo-project", "Makefile", "PKG-INFO"), "")
    with tarfile.open(path, "w:gz") as file:
        for name in (files | more).keys() - {*without}:
            file.addfile(tarfile.TarInfo(f"tampo-1.2.3/{name}"), io.BytesIO())
    return path


RAN = '{"cells": [{"outputs": [{"text": "1"}]}]}'


@pytest.mark.parametrize(
    ("kind", "make", "without", "more", "problems"),
    [
        ("wheel", make_wheel, [], {}, []),
        ("sdist", make_sdist, [], {}, []),
        ("wheel", make_wheel, ["tampo/py.typed"], {}, ["lacks tampo/py.typed"]),
        (
            "wheel",
            make_wheel,
            ["tampo-1.2.3.dist-info/licenses/LICENSE"],
            {},
            ["lacks tampo-1.2.3.dist-info/licenses/LICENSE"],
        ),
        ("wheel", make_wheel, [], {"results/mini/a.csv": ""}, ["has results/mini/a.csv"]),
        ("wheel", make_wheel, [], {"tests/test_a.py": ""}, ["has tests/test_a.py"]),
        (
            "wheel",
            make_wheel,
            [],
            {"tampo/bundled/notebooks/table1.ipynb": RAN},
            ["tampo/bundled/notebooks/table1.ipynb has outputs"],
        ),
        ("sdist", make_sdist, ["LICENSE"], {}, ["lacks LICENSE"]),
        (
            "sdist",
            make_sdist,
            ["CHANGELOG.md", "params/mini.yaml"],
            {},
            ["lacks CHANGELOG.md", "lacks params/mini.yaml"],
        ),
        (
            "sdist",
            make_sdist,
            [],
            {"results/reference/mini/records.zip": ""},
            ["has results/reference/mini/records.zip"],
        ),
    ],
)
def test_archives(checkout, tmp_path, kind, make, without, more, problems):
    assert archives.archive(checkout, kind, make(tmp_path / "archive", without, **more)) == problems


def test_an_archive_of_another_version(checkout, tmp_path):
    write(checkout, "tampo/__init__.py", '__version__ = "1.2.4"\n')
    assert "lacks tampo-1.2.4.dist-info/METADATA" in archives.archive(checkout, "wheel", make_wheel(tmp_path / "wheel"))


def test_data_of_tests_are_not_shipped_even_when_they_are_committed(checkout, tmp_path):
    write(checkout, "tampo/problems.jsonl", "")
    git(checkout, "add", ".")
    wheel = make_wheel(tmp_path / "wheel", **{"tampo/problems.jsonl": ""})
    assert archives.archive(checkout, "wheel", wheel) == ["has tampo/problems.jsonl"]


# The committed results.


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A copy of the committed results, in which one file may be broken at a time."""
    shallow = subprocess.run(["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True)
    if shallow.stdout.strip() != "false":
        pytest.skip("the history is not here")
    return shutil.copytree(ROOT / "results/reference/mini", tmp_path_factory.mktemp("reference") / "mini")


@pytest.fixture
def changed(reference):
    """Writes another content into a file of the copy, until the test ends."""
    before = {}

    def change(name, function):
        before[name] = (reference / name).read_bytes()
        (reference / name).write_bytes(function(before[name]))
        return release_check.reference(ROOT, reference)

    yield change
    for name, content in before.items():
        (reference / name).write_bytes(content)


def edit(**values):
    """A JSON object with other values."""
    return lambda content: json.dumps(json.loads(content) | values).encode()


def test_the_reference_holds(reference):
    assert release_check.reference(ROOT, reference) == []


def test_a_reference_that_was_edited(changed):
    problems = changed("tables/table1.csv", lambda content: content + b"\n")
    assert problems == ["tables/table1.csv: changed here after it was made"]


def test_a_reference_of_another_version(changed):
    assert changed("reference.json", edit(versions={"tampo": "0.0.9"}))[0].startswith(
        "made by tampo 0.0.9, and this is"
    )


def test_a_reference_of_another_history(changed):
    problems = changed("reference.json", edit(records_commit="0" * 40))
    assert problems[-1] == f"its commit {'0' * 40} is not in the history of HEAD"
    assert f"is not {'0' * 40}" not in problems[0] and f", not {'0' * 40}" in problems[0], "no record is of this commit"


def test_a_record_of_another_commit(changed):
    def other(content):
        manifest = json.loads(content)
        # Not one of the archive's, whose own manifest is read after this one.
        manifest["records"]["training-other"] = next(iter(manifest["records"].values())) | {"commit": "1" * 40}
        return json.dumps(manifest).encode()

    (problem,) = changed("tables/table1.manifest.json", other)
    assert problem.startswith(f"training-other is of commit {'1' * 40}, not ")


def test_an_archive_that_was_edited(changed):
    def other(content):
        new = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(new, "w") as file:
            first = next(name for name in old.namelist() if name.endswith("metrics.csv"))
            for name in old.namelist():
                file.writestr(name, old.read(name) + (b"\n" if name == first else b""))
        return new.getvalue()

    (problem,) = changed("records.zip", other)
    assert problem.endswith("metrics.csv changed after it was made")


def test_verify_is_not_run_without_results_and_fails_with_what_it_says(checkout):
    with pytest.raises(release_check.NotRun, match="make reproduce"):
        release_check.verified(checkout)
    write(checkout, "results/mini/seeds=0-4/tables/table1.manifest.json", "{}")
    for status, expected in ((0, []), (1, ["different: table1"])):
        write(checkout, "tampo/__main__.py", f"print('different: table1')\nraise SystemExit({status})\n")
        assert release_check.verified(checkout) == expected


def test_one_line_a_check_and_its_way_out(checkout, capsys, monkeypatch):
    def nothing(root):
        raise release_check.NotRun("no results")

    def broken(root):
        return ["no licence"]

    def crash(root):
        raise KeyError("version")

    green = {"good": (lambda root: [], "none"), "idle": (nothing, "none")}
    monkeypatch.setattr(release_check, "CHECKS", green)
    assert release_check.main(checkout) == 0
    assert capsys.readouterr().out == "ok       good\nnot run  idle: no results\n"
    monkeypatch.setattr(release_check, "CHECKS", {"bad": (broken, "write one"), "worse": (crash, "mend it"), **green})
    assert release_check.main(checkout) == 1
    assert capsys.readouterr().out.splitlines() == [
        "FAILED   bad: write one",
        "         - no licence",
        "FAILED   worse: mend it",
        "         - KeyError: 'version'",
        "ok       good",
        "not run  idle: no results",
    ]
