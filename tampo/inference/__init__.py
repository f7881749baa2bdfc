"""Inference: engines that sample completions, and the evaluation of a model on benchmarks."""
