"""DeepSpeed: a training run started by `accelerate launch` with the shipped files of ZeRO-2 and ZeRO-3, on one GPU."""

import sys
from importlib.util import find_spec
from pathlib import Path

from tests.helpers import ROOT
from tests.on_gpu.device import need_gpu
from tests.on_gpu.report import Report, Skipped
from tests.on_gpu.training import check_log, command, finished


def run(report: Report, folder: Path) -> None:
    need_gpu()
    if find_spec("deepspeed") is None:
        raise Skipped("deepspeed is not installed")
    shipped = ROOT / "params" / "accelerate"
    one = shipped / "1gpu-zero2.yaml"
    for file in (one if one.exists() else shipped / "8gpu-zero2.yaml", shipped / "8gpu-zero3.yaml"):
        launch = ["-m", "accelerate.commands.launch", "--config_file", str(file), "--num_processes", "1"]
        words = [sys.executable, *launch, *command(folder / file.stem, "auto")[1:]]
        log = finished(folder / file.stem, words)
        report.check(f"{file.name}, its engine", log["wrapper"] == "DeepSpeedEngine", wrapper=log["wrapper"])
        check_log(report, file.name, log)
