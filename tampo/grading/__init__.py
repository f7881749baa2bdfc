"""Grading: is an answer equal to the gold answer? In worker processes, with a deadline and a memory cap."""

from tampo.grading.answers import Grader, Status
from tampo.grading.pool import Verdict, grade_math

__all__ = ["Grader", "Status", "Verdict", "grade_math"]
