"""Statements about TAMPO's signal, against simulation and against derivatives taken another way."""

import itertools

import numpy as np
import pandas as pd
import pytest

from tampo.meta_policy import DEFAULT_TEMPERATURES, MetaPolicy
from tampo.paper.optimal_temperature import ScoredRollouts
from tampo.paper.questions import group_advantages
from tampo.paper.theory import (
    Answers,
    information_at,
    mean_signal,
    predicted_signal,
    prompt_weight,
    scored_once_and_twice,
    selection_bound,
    shares,
    signal_figure,
    virtual_grid,
    weight_and_bound_figure,
)
from tests.paper.helpers import assert_fits, title_of

GRID = np.array(DEFAULT_TEMPERATURES)


def test_probabilities_are_those_of_all_sequences():
    answers = Answers(1.5, 3, 2.0)
    for temperature in (0.6, 1.3):
        right = 1 / (1 + np.exp(1.5 / temperature))
        likely = 1 / (1 + np.exp(-2.0 / temperature))
        found = answers.probabilities(temperature)[:, 0]
        for r, bits in itertools.product((0, 1), itertools.product((0, 1), repeat=3)):
            p = (right if r else 1 - right) * np.prod([likely if bit else 1 - likely for bit in bits])
            kind = r * 4 + sum(bits)
            assert np.exp(answers.log_likelihoods(temperature)[kind, 0]) == pytest.approx(p)
            found[kind] -= p
        np.testing.assert_allclose(found, 0, atol=1e-12)
    np.testing.assert_allclose(answers.reward_at(GRID), 1 / (1 + np.exp(1.5 / GRID)))


@pytest.mark.parametrize("tokens", [0, 3, 40, 400])
@pytest.mark.parametrize("gap", [2.0, -1.0])
def test_the_mean_signal_is_I_minus_W_times_J(tokens, gap):
    answers = Answers(gap, tokens)
    np.testing.assert_allclose(mean_signal(answers, GRID), predicted_signal(answers, GRID), atol=1e-12)


def test_the_mean_signal_is_that_of_the_meta_policy_on_sampled_answers():
    answers, generator, policy = Answers(1.0, 4), np.random.default_rng(0), MetaPolicy(GRID)
    scores, total = answers.log_likelihoods(GRID), np.zeros(10)
    for k, p in enumerate(answers.probabilities(GRID).T):
        kinds = generator.choice(len(p), size=200_000, p=p / p.sum())
        advantages = answers.rewards[kinds] - answers.reward_at(GRID)[k]
        total += policy.batch_advantages(scores[kinds], advantages) / 10
    np.testing.assert_allclose(total, mean_signal(answers, GRID, "sparsemax"), atol=5e-4)


def test_the_signal_is_the_reward_curve_on_short_answers_and_nothing_on_long_ones():
    rising = Answers(2.0, 0).reward_at(GRID)
    short = mean_signal(Answers(2.0, 0, 0.0), GRID)
    assert np.corrcoef(short, rising)[0, 1] > 0.95
    sizes = [np.abs(mean_signal(Answers(2.0, n), GRID)).max() for n in (0, 30, 300, 3000, 30_000)]
    assert sizes[0] > 10 * sizes[-1]
    assert sizes[1:] == sorted(sizes[1:], reverse=True)


def test_groups_of_rewards_weigh_prompts_by_the_slope_of_arcsin():
    p = np.array([0.02, 0.1, 0.5, 0.9])
    step = 1e-6
    slope = (2 * np.arcsin(np.sqrt(p + step)) - 2 * np.arcsin(np.sqrt(p - step))) / (2 * step)
    np.testing.assert_allclose(prompt_weight(p), slope, rtol=1e-5)
    np.testing.assert_allclose(prompt_weight(p, 2000), slope, rtol=2e-2)


def test_the_weight_of_a_prompt_is_that_of_normalised_advantages():
    """E[mean A s] over groups of 8, where s is 1 / p for right rollouts and -1 / (1 - p) for others: d log p / dp."""
    generator = np.random.default_rng(0)
    for p in (0.1, 0.5):
        right = generator.random((100_000, 8)) < p
        advantages = group_advantages(right.ravel(), 8)
        slope = np.where(right.ravel(), 1 / p, -1 / (1 - p))
        assert (advantages * slope).mean() == pytest.approx(prompt_weight(p, 8), rel=0.02)


def test_no_selection_moves_a_mean_beyond_the_bound():
    """Normal estimates, of which the best tenth counts as good: the most that a choice can do."""
    drawn = np.sort(np.random.default_rng(0).normal(0, 1, 100_000))
    for p in (0.1, 0.5, 0.9):
        good = drawn[-int(p * len(drawn)) :].mean()
        bound = selection_bound(p, 1, 1.0)
        assert 0.5 * bound < good < bound


def test_the_bound_holds_for_exact_answers():
    """T* by a fine grid, of right answers: its distance from T is below the bound, and falls with the length."""
    fine, distances = np.linspace(0.4, 4.0, 721), []
    for tokens in (100, 1000):
        answers = Answers(2.0, tokens)
        best = fine[answers.log_likelihoods(fine).argmax(axis=1)]
        p = answers.probabilities(1.0)[:, 0]
        right = answers.rewards == 1
        everyone, good = (best * p).sum(), (best * p)[right].sum() / p[right].sum()
        distances.append(abs(good - everyone))
        assert distances[-1] < selection_bound(p[right].sum(), tokens, answers.information(1.0))
    assert distances[1] < distances[0] / 5


def test_shares_are_normalised():
    scores = np.random.default_rng(0).normal(size=(20, 5)) * 5
    for kind in ("softmax", "sparsemax"):
        np.testing.assert_allclose(shares(scores, kind).sum(axis=1), 1.0)


def chains(temperature):
    """Tokens of a softmax over 50 logits, sampled at `temperature` and scored at the candidates and their products."""
    logits = np.random.default_rng(1).normal(0, 3, 50)
    virtual = np.unique(np.round([*GRID, *(GRID * temperature)], 9))
    table = logits[:, None] / virtual
    table = table - np.log(np.exp(table).sum(axis=0))
    p = np.exp(logits / temperature)
    tokens = np.random.default_rng(2).choice(50, size=4000, p=p / p.sum())
    return ScoredRollouts(temperature, virtual, pd.DataFrame(), np.empty((0, 0)), table[tokens].astype(np.float32))


def test_scored_once_T_star_is_T_and_twice_it_is_one():
    found = scored_once_and_twice({t: chains(t) for t in (0.9, 1.2, 1.5)}, GRID, 2000, 50, 0)
    once, twice = (found[found["kind"] == f"divided {n}"].set_index("sampled_at")["mean"] for n in ("once", "twice"))
    np.testing.assert_allclose(once, once.index, atol=0.06)
    np.testing.assert_allclose(twice, 1.0, atol=0.06)
    assert (found[(found["kind"] == "divided twice") & (found["sampled_at"] > 1)]["below"] == 1).all()


def test_information_is_that_of_the_logits():
    """T^-4 times their variance, from rollouts at all virtual temperatures of the notebook."""
    logits, temperature = np.random.default_rng(1).normal(0, 3, 50), 1.2
    virtual = np.unique(np.round([*GRID, *virtual_grid(GRID, temperature), temperature], 9))
    table = logits[:, None] / virtual
    table = table - np.log(np.exp(table).sum(axis=0))
    p = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    tokens = np.random.default_rng(2).choice(50, size=200_000, p=p)
    sums = table[tokens].reshape(-1, 100, len(virtual)).sum(axis=1)
    scored = ScoredRollouts(temperature, virtual, pd.DataFrame({"tokens": [100] * len(sums)}), sums, np.empty((0, 0)))
    variance = (p * logits**2).sum() - (p * logits).sum() ** 2
    assert information_at(scored) == pytest.approx(variance / temperature**4, rel=0.01)


def test_figure_has_a_panel_for_each_length():
    signals = signal_figure([Answers(2.0, n) for n in (0, 30, 300)], GRID)
    assert len(signals.axes) == 3
    assert title_of(signals).startswith("The signal is highest where J is in 3 of 3 panels; ")
    bounds = weight_and_bound_figure({"a model": 0.3})
    assert len(bounds.axes) == 2
    # 1 / sqrt(p (1 - p)) is 10.05 at 1 % and 2 at 50 %; sqrt(0.9 / 0.1) / sqrt(1000 * 0.3) is 0.173.
    assert title_of(bounds).startswith("A change at p = 1 % counts 5.0 times as much as at 50 % in large groups, ")
    assert title_of(bounds).endswith("|mean T* - T| of 1,000 tokens is at most 0.17")
    for figure in (signals, bounds):
        assert_fits(figure)
