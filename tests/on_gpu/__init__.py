"""What only a GPU can show, in one command of minutes: `python -m tests.on_gpu`, or `make test-gpu`.

One module a stage, each with `run(report, folder)`; each stage runs in a process of its own, so that one that dies or
hangs is one FAIL. On a CPU the same stages run with what is there, on small sizes, and say SKIP for the rest.
"""

SECONDS = {
    "environment": 20,
    "kernel": 85,
    "head": 50,
    "training": 90,
    "zero": 60,
    "colocate": 110,
    "evaluation": 65,
}
"""The stages in order, and the seconds after which each is stopped: 8 minutes in all. Without a GPU, four times."""
