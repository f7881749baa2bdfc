"""Grading: is an answer equal to the gold answer? In worker processes, with a deadline and a memory cap."""

from tampo.grading.answers import Status
from tampo.grading.pool import Verdict, grade_math

__all__ = ["Status", "Verdict", "grade_math"]
