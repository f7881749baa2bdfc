"""Evaluation by vLLM: tests of `tests/with_vllm/test_engine.py`, against the model's softmax and transformers."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from tests.helpers import ROOT
from tests.on_gpu.device import need_gpu
from tests.on_gpu.report import Report, Skipped

# The others expect equal bits of batches of other sizes, which a GPU does not promise.
CHOSEN = "tempered_softmax or decoding_rules or accuracies"


def run(report: Report, folder: Path) -> None:
    need_gpu()
    if find_spec("vllm") is None:
        raise Skipped("vLLM is not installed")
    file = folder / "junit.xml"
    words = [sys.executable, "-m", "pytest", "tests/with_vllm/test_engine.py", "-k", CHOSEN, f"--junitxml={file}"]
    words += ["-p", "no:cacheprovider", "-o", "junit_logging=system-out"]
    done = subprocess.run(words, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    if not file.exists():
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-1500:]}")
    cases = list(ElementTree.parse(file).getroot().iter("testcase"))
    if not cases:
        raise RuntimeError(f"no test was chosen by {CHOSEN!r}")
    for case in cases:
        wrong = [part for part in case if part.tag in ("failure", "error")]
        said = [line for part in case if part.tag == "system-out" for line in (part.text or "").splitlines()]
        numbers = [line for line in said if line and not line.startswith(("-", "("))]  # not pytest's, nor vLLM's
        message = "; ".join([part.get("message", "") for part in wrong] or numbers)
        report.check(case.get("name", ""), not wrong, message[-800:], seconds=float(case.get("time", 0)))
