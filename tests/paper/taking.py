"""A function that takes memory, in a module that a new process imports quickly."""

import numpy as np


def take(megabytes: int) -> None:
    np.ones(megabytes * 2**17)
