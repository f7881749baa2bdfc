"""One contract for every controller, and each rule against its formula."""

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import yaml

from tampo.cli import build_parser
from tampo.config import ConfigError, load_params
from tampo.controllers.base import RolloutBatch, RunSettings, TemperatureController, parameter, resolved
from tampo.controllers.registry import CONTROLLERS, describe_controllers, make_controller
from tampo.paper.notebook import notebook_params
from tampo.trainer import TAMPOConfig

CANDIDATES = RunSettings().temperatures


def rollout_batch(rows=8, k=10, seed=0, reward=None, entropy=None):
    generator = np.random.default_rng(seed)
    return RolloutBatch(
        temperatures=np.linspace(0.6, 1.5, k),
        log_likelihoods=-generator.exponential(20, (rows, k)),
        advantages=generator.normal(size=rows),
        lengths=generator.integers(1, 50, rows).astype(float),
        reward=generator.uniform() if reward is None else reward,
        entropy=generator.exponential(0.3) if entropy is None else entropy,
        temperature=1.0,
        rewards=generator.integers(0, 2, rows).astype(float) if reward is None else np.full(rows, reward),
        groups=np.arange(rows) // 4,
        sampled_log_likelihoods=-generator.exponential(20, rows),
        virtual_entropies=np.sort(generator.exponential(0.3, k)),  # rising with T
    )


@pytest.mark.parametrize("name", CONTROLLERS)
def test_contract(name):
    """Temperatures stay between the ends; a restored state goes on with the same ones; metrics are numbers."""
    run = RunSettings(total_steps=40, total_batches=40, seed=3)
    whole, other = make_controller(name, run=run), make_controller(name, run=run)
    for step in range(15):
        assert 0.6 <= whole.temperature(step) <= 1.5
        whole.update(rollout_batch(seed=step))
    other.load_state_dict(json.loads(json.dumps(whole.state_dict(), allow_nan=False)))
    for step in range(15, 40):
        assert whole.temperature(step) == other.temperature(step)
        for controller in (whole, other):
            controller.update(rollout_batch(seed=step))
    assert whole.state_dict() == other.state_dict()
    assert whole.metrics() == other.metrics()
    assert all(isinstance(value, float) for value in whole.metrics().values())


@pytest.mark.parametrize("name", CONTROLLERS)
def test_contract_for_batches_that_say_nothing(name):
    """No reward spread, no token, nobody could judge: no rule fails, or leaves its range."""
    controller = make_controller(name, run=RunSettings(total_steps=12, total_batches=12))
    nothing = rollout_batch(reward=math.nan, entropy=math.nan)
    empty = RolloutBatch(nothing.temperatures, np.zeros((4, 10)), np.zeros(4), np.zeros(4), 0.0, 0.0, 1.0)
    empty = replace(empty, rewards=np.zeros(4), groups=np.zeros(4, dtype=int), sampled_log_likelihoods=np.zeros(4))
    empty = replace(empty, virtual_entropies=np.full(10, math.nan))
    for step in range(12):
        assert 0.6 <= controller.temperature(step) <= 1.5
        controller.update(nothing if step % 2 else empty)
    assert all(math.isfinite(value) for value in controller.metrics().values())


@pytest.mark.parametrize("name", CONTROLLERS)
def test_same_seed_same_temperatures(name):
    def draw(seed):
        parameters = {"top_p": 1.0} if name in ("tampo", "learning-signal") else {}
        controller = make_controller(name, parameters, RunSettings(total_steps=30, total_batches=30, seed=seed))
        drawn = []
        for step in range(30):
            drawn.append(controller.temperature(step))
            controller.update(rollout_batch(seed=step))
        return drawn

    assert draw(0) == draw(0)
    assert (draw(0) != draw(1)) == (name in ("tampo", "exp3", "random", "learning-signal"))  # the others draw nothing


NAMED = {"tampo": {"alpha": "alpha", "top_p": "p", "likelihood": "likelihood"}, "fixed": {"value": "temperature"}}


@pytest.mark.parametrize("name", CONTROLLERS)
def test_every_parameter_is_declared_once_and_reaches_the_controller_from_everywhere(name, tmp_path):
    """A file, the command line, a notebook and TAMPOConfig build the same controller; it is what a run is known by."""
    changed = {"alpha": 0.25, "top_p": 0.5, "likelihood": "mean", "value": 0.8, "start_temperature": 0.7}
    changed |= {"end_temperature": 1.1, "stages": [0.7, 1.3], "target": 0.2, "gain": 0.25, "exploration": 0.125}
    changed |= {"virtual_temperatures": "relative", "rate": 0.25, "noise_guard": 2.5}
    own = {key: changed[key] for key in CONTROLLERS[name].parameters()}
    named = NAMED.get(name, {})
    flat = {"temperature_controller": name} | {named[key]: value for key, value in own.items() if key in named}
    flat["temperature_controller_kwargs"] = {key: value for key, value in own.items() if key not in named}
    made = [load_params("mini", flat), notebook_params({"params": "mini"} | flat, "overhead")]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(flat))
    made.append(load_params(path))
    words = [f"--{key}={json.dumps(value) if isinstance(value, dict) else value}" for key, value in flat.items()]
    made.append(load_params("mini", build_parser().parse_args(["train", "mini", *words]).overrides))
    trainer = {"alpha": "meta_alpha", "p": "meta_top_p", "likelihood": "meta_likelihood"}
    config = TAMPOConfig("out", **{trainer.get(k, k): v for k, v in flat.items()}, use_cpu=True, bf16=False)
    expected = dict(resolved(config.configure_controller()))
    assert expected == own
    for params in made:
        assert resolved(params.configure_controller()) == expected
        assert params.identity()["temperature_controller_kwargs"] == expected
    for key in own:
        without = {k: v for k, v in flat.items() if k != named.get(key)}
        without["temperature_controller_kwargs"] = {
            k: v for k, v in flat["temperature_controller_kwargs"].items() if k != key
        }
        assert load_params("mini", without).identity() != made[0].identity(), f"{key} decides the result"


def test_what_only_other_controllers_read_does_not_decide_a_run():
    for name, idle in (("fixed", {"alpha": 0.3, "meta_warmup_ratio": 0.5}), ("linear", {"temperature": 0.7, "p": 0.1})):
        chosen = {"temperature_controller": name}
        assert load_params("mini", chosen | idle).identity() == load_params("mini", chosen).identity()


def test_a_controller_of_ones_own_is_one_class_and_one_line(monkeypatch):
    @dataclass
    class Sawtooth(TemperatureController):
        """Up and down again."""

        low: float = parameter(0.8, "Lowest temperature.")
        teeth: int = parameter(3, "Steps of a tooth.")

        def temperature(self, step):
            return self.low + 0.1 * (step % self.teeth)

    monkeypatch.setitem(CONTROLLERS, "sawtooth", Sawtooth)
    chosen = {"temperature_controller": "sawtooth", "temperature_controller_kwargs": {"teeth": 2}}
    controller = TAMPOConfig("out", **chosen, use_cpu=True, bf16=False).configure_controller()
    controller.start(RunSettings())
    assert [controller.temperature(step) for step in range(4)] == pytest.approx([0.8, 0.9, 0.8, 0.9])
    params = load_params("mini", chosen)
    assert params.identity()["temperature_controller_kwargs"] == {"low": 0.8, "teeth": 2}
    assert "sawtooth: low = 0.8: Lowest temperature.; teeth = 3: Steps of a tooth." in describe_controllers()
    with pytest.raises(ConfigError, match="temperature_controller_kwargs: .*'sawtooth' does not know 'tooth'.*'teeth'"):
        load_params("mini", chosen | {"temperature_controller_kwargs": {"tooth": 2}})


def test_fixed_and_linear():
    fixed = make_controller("fixed", {"value": 1.2})
    assert {fixed.temperature(step) for step in range(5)} == {1.2}
    linear = make_controller("linear", run=RunSettings(total_steps=7))
    np.testing.assert_allclose([linear.temperature(s) for s in range(7)], np.linspace(0.9, 1.5, 7))
    assert linear.temperature(100) == 1.5
    assert make_controller("linear", run=RunSettings(total_steps=1)).temperature(0) == 0.9


def test_cosine_is_half_a_cosine():
    """As torch's annealing, which goes from its learning rate to eta_min."""
    import torch

    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.9)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=1.5)
    cosine = make_controller("cosine", run=RunSettings(total_steps=21))
    for step in range(21):
        assert cosine.temperature(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        annealing.step()
    assert cosine.temperature(99) == 1.5


def test_staged_splits_the_run_evenly():
    staged = make_controller("staged", {"stages": (1.4, 1.45, 1.5)}, RunSettings(total_steps=10))
    assert [staged.temperature(step) for step in range(12)] == [1.4] * 4 + [1.45] * 3 + [1.5] * 5
    assert make_controller("staged", {"stages": (1.0,)}).temperature(0) == 1.0


def softmax_entropy(logits, temperature):
    p = np.exp(logits / temperature - (logits / temperature).max())
    p /= p.sum()
    return float(-(p * np.log(p)).sum())


@pytest.mark.parametrize("sharpness", [2.0, 4.0, 6.0])
def test_entropy_target_settles_where_the_entropy_is_the_target(sharpness):
    """Against a policy that is one softmax: T ends where its entropy is H*, found by bisection."""
    logits = np.random.default_rng(1).normal(size=40) * sharpness
    low, high = 0.05, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if softmax_entropy(logits, middle) < 1.0 else (low, middle)
    rule = make_controller("entropy-target", {"target": 1.0, "gain": 0.5}, RunSettings((0.05, 20.0), warmup_ratio=0.0))
    for step in range(300):
        rule.update(rollout_batch(entropy=softmax_entropy(logits, rule.temperature(step))))
    assert rule.temperature(300) == pytest.approx(low, rel=1e-3)


def tempered_batch(logits, temperature, candidates):
    """Of a policy that is one softmax: its entropy at the sampling temperature and at the candidates."""
    entropies = np.array([softmax_entropy(logits, t) for t in candidates])
    batch = rollout_batch(entropy=softmax_entropy(logits, temperature))
    return replace(batch, temperatures=np.array(candidates), virtual_entropies=entropies)


@pytest.mark.parametrize("sharpness", [2.0, 4.0, 6.0])
def test_entropy_match_finds_the_temperature_of_its_target(sharpness):
    """Against a policy that is one softmax: T' is at once where its entropy is H*, and T halves the way to it."""
    logits = np.random.default_rng(1).normal(size=40) * sharpness
    candidates = tuple(np.geomspace(20.0, 0.05, 200))  # in any order
    wanted = 1.7
    target = softmax_entropy(logits, wanted)
    rule = make_controller("entropy-match", {"target": target}, RunSettings(candidates, warmup_ratio=0.0))
    for step in range(12):
        assert math.log(rule.temperature(step) / wanted) == pytest.approx(-math.log(wanted) / 2**step, abs=1e-3)
        rule.update(tempered_batch(logits, rule.temperature(step), candidates))
    at_once = make_controller("entropy-match", {"target": target, "rate": 1.0}, RunSettings(candidates, 0.0))
    at_once.update(tempered_batch(logits, 1.0, candidates))
    assert at_once.temperature(1) == pytest.approx(wanted, rel=1e-3)


def test_entropy_match_is_linear_in_log_t_and_clamps():
    rule = make_controller("entropy-match", {"target": 0.3, "rate": 1.0}, RunSettings((0.6, 1.5), warmup_ratio=0.0))
    batch = replace(rollout_batch(), temperatures=np.array([0.6, 1.5]), virtual_entropies=np.array([0.2, 0.6]))
    rule.update(batch)
    assert rule.temperature(1) == pytest.approx(0.6 ** (3 / 4) * 1.5 ** (1 / 4))
    for entropies, expected in (([0.0, 0.0], 1.5), ([0.4, 0.5], 0.6), ([math.nan, math.nan], 0.6)):
        rule.update(replace(batch, virtual_entropies=np.array(entropies)))
        assert rule.temperature(2) == pytest.approx(expected)


def test_entropy_match_holds_the_entropy_of_the_warm_up():
    """With target 0, T stays while the policy does; where its logits are doubled, so is T."""
    logits = np.random.default_rng(2).normal(size=40)
    candidates = tuple(np.geomspace(0.3, 4.0, 100))
    run = RunSettings(candidates, total_batches=30, warmup_temperature=0.9)
    rule = make_controller("entropy-match", {"target": 0.0}, run)
    for step in range(30):
        assert rule.temperature(step) == pytest.approx(0.9, rel=1e-3)
        rule.update(tempered_batch(logits, rule.temperature(step), candidates))
    assert rule.metrics() == {"controller/target_entropy": pytest.approx(softmax_entropy(logits, 0.9))}
    for step in range(30, 50):
        rule.update(tempered_batch(2 * logits, rule.temperature(step), candidates))
    assert rule.temperature(50) == pytest.approx(1.8, rel=1e-3)


def test_entropy_match_needs_virtual_entropies():
    assert [name for name, rule in CONTROLLERS.items() if rule.uses_virtual_entropies] == ["entropy-match"]
    with pytest.raises(ValueError, match="entropy-match needs the virtual_entropies"):
        make_controller("entropy-match").update(replace(rollout_batch(), virtual_entropies=None))


def test_entropy_target_formula_and_clamps():
    rule = make_controller("entropy-target", {"target": 0.3, "gain": 0.5}, RunSettings(warmup_ratio=0.0))
    rule.update(rollout_batch(entropy=0.1))
    assert rule.temperature(1) == pytest.approx(math.exp(0.5 * 0.2))
    for _ in range(50):
        rule.update(rollout_batch(entropy=0.0))
    assert rule.temperature(2) == 1.5
    for _ in range(50):
        rule.update(rollout_batch(entropy=1e6))
    assert rule.temperature(3) == 0.6


def test_the_entropy_of_the_warm_up_is_held():
    """target 0: T stays through the warm-up, whose mean is the target; then it moves."""
    run = RunSettings(total_batches=30, warmup_temperature=0.9)
    rule = make_controller("entropy-target", {"target": 0.0}, run)
    for step, entropy in enumerate((0.2, 0.3, 0.7)):
        assert rule.temperature(step) == 0.9
        rule.update(rollout_batch(entropy=entropy))
    assert rule.metrics() == {"controller/target_entropy": pytest.approx(0.4)}
    assert rule.temperature(3) == 0.9
    rule.update(rollout_batch(entropy=0.2))
    assert rule.temperature(4) == pytest.approx(0.9 * math.exp(0.5 * 0.2))


def test_e3_formula():
    """arXiv 2505.18573: T <- T (1 + T ln(H* / H) / (ln V + ln ln V)), with H* of the first steps, and clamped."""
    run = RunSettings(total_batches=20, warmup_temperature=1.2, vocabulary_size=151_936)
    rule = make_controller("e3", run=run)
    for entropy in (0.5, 0.3):
        rule.update(rollout_batch(entropy=entropy))
        assert rule.temperature(0) == 1.2
    rule.update(rollout_batch(entropy=0.1))
    expected = 1.2 * (1 + 1.2 * math.log(0.4 / 0.1) / (math.log(151_936) + math.log(math.log(151_936))))
    assert rule.temperature(3) == pytest.approx(expected)
    for _ in range(20):
        rule.update(rollout_batch(entropy=0.0))  # sure of everything: ln(H* / H) has no bound
    assert rule.temperature(4) == 1.5
    for _ in range(20):
        rule.update(rollout_batch(entropy=11.0))
    assert rule.temperature(5) == 0.6


def test_exp3_probabilities_by_hand():
    """Auer et al. 2002: w_k <- w_k exp(gamma x_k / (p_k K)); p = (1 - gamma) w / sum w + gamma / K."""
    rule = make_controller("exp3", {"exploration": 0.3}, RunSettings(seed=1))
    weights, low, high = np.ones(10), math.inf, -math.inf
    for step in range(200):
        np.testing.assert_allclose(rule.probabilities, 0.7 * weights / weights.sum() + 0.03, rtol=1e-9)
        arm = CANDIDATES.index(rule.temperature(step))
        reward = float(np.random.default_rng(step).normal())  # of any sign and size
        low, high = min(low, reward), max(high, reward)
        scaled = (reward - low) / (high - low) if high > low else 0.5
        weights[arm] *= math.exp(0.3 * scaled / (0.7 * weights[arm] / weights.sum() + 0.03) / 10)
        rule.update(rollout_batch(reward=reward))


def test_ucb_by_hand():
    rule = make_controller("ucb", {"exploration": 1.0})
    pulled = [[] for _ in CANDIDATES]
    for step in range(300):
        if step < 10:
            expected = step  # each once, from the lowest
        else:
            rewards = [r for arm in pulled for r in arm]
            means = (np.array([np.mean(arm) for arm in pulled]) - min(rewards)) / (max(rewards) - min(rewards))
            expected = int((means + np.sqrt(2 * np.log(step) / np.array([len(arm) for arm in pulled]))).argmax())
        arm = CANDIDATES.index(rule.temperature(step))
        assert arm == expected
        pulled[arm].append(float(np.random.default_rng(step).normal() - abs(arm - 3)))
        rule.update(rollout_batch(reward=pulled[arm][-1]))


@pytest.mark.parametrize("name", ["exp3", "ucb"])
def test_bandits_find_the_best_arm(name):
    """Of rewards that differ by arm: the best temperature is drawn more than any other, and bad ones seldom."""
    generator = np.random.default_rng(0)
    bandit = make_controller(name, {"exploration": {"exp3": 0.1, "ucb": 0.5}[name]})
    drawn = []
    for step in range(4000):
        drawn.append(bandit.temperature(step))
        bandit.update(rollout_batch(reward=1 - abs(drawn[-1] - 1.3) + 0.05 * generator.normal()))
    late = drawn[2000:]
    assert max(set(late), key=late.count) == 1.3
    assert sum(abs(temperature - 1.3) < 0.15 for temperature in late) > 0.6 * len(late)


def mixed_batch(gap, seed=0, rows=64, temperatures=CANDIDATES):
    """Rollouts of one token, of a policy with two answers whose logits differ by `gap`, sampled at T = 1.

    The right one is the second, so that its probability at T is 1 / (1 + exp(gap / T)).
    """
    grid = np.array(temperatures)
    right = np.random.default_rng(seed).random(rows) < 1 / (1 + np.exp(gap))
    wrong_at, right_at = -np.log1p(np.exp(-gap / grid)), -np.log1p(np.exp(gap / grid))  # (K,), log-probabilities
    groups = np.arange(rows) // 8
    means = np.array([right[groups == g].mean() for g in groups])
    scores = np.where(right[:, None], right_at, wrong_at)
    return RolloutBatch(
        grid, scores, right - means, np.ones(rows), rewards=right.astype(float), groups=groups, temperature=1.0,
        sampled_log_likelihoods=scores[:, temperatures.index(1.0)],
    )  # fmt: skip


def test_score_function_climbs_the_expected_reward():
    """The right answer is the rarer one: up. With the labels exchanged it is the likelier one: down."""
    up, down = (make_controller("score-function", run=RunSettings(total_batches=40)) for _ in range(2))
    for step in range(40):
        batch = mixed_batch(2.0, step)
        up.update(batch)
        down.update(replace(batch, advantages=-batch.advantages))
    assert up.temperature(40) > 1.2
    assert down.temperature(40) < 0.8


def test_score_function_is_the_natural_gradient_of_the_batch():
    """One step from T = 1, without averages: log T += mean(A s) / mean(s^2), s by differences of the formula."""
    rule = make_controller("score-function", {"alpha": 1.0}, RunSettings((0.999, 1.0, 1.001), warmup_ratio=0.0))
    batch = mixed_batch(2.0, temperatures=(0.999, 1.0, 1.001))
    p = 1 / (1 + np.exp(2.0))
    slope = np.where(batch.rewards == 1, 2 * (1 - p), -2 * p)  # d log p / d log T at T = 1, of right and of wrong ones
    expected = (batch.advantages * slope).mean() / (slope**2).mean()
    rule.update(batch)
    assert rule.metrics()["controller/gradient"] / rule.metrics()["controller/information"] == pytest.approx(
        expected, rel=1e-3
    )
    assert rule.temperature(1) == pytest.approx(min(max(math.exp(expected), 0.999), 1.001))


def test_learning_signal_finds_where_answers_are_mixed():
    """A right answer of probability 1 / (1 + exp(2 / T)) is below one half: p (1 - p) rises with T."""
    rule = make_controller("learning-signal", {"top_p": 0.0}, RunSettings(total_batches=40))
    for step in range(40):
        rule.update(mixed_batch(2.0, step))
    p = 1 / (1 + np.exp(2.0 / np.array(CANDIDATES)))
    # A ratio within a group of 8 is drawn towards that of the sampling temperature.
    np.testing.assert_allclose(rule.averages, p * (1 - p), atol=0.025)
    assert rule.averages.argmax() == 9
    assert rule.temperature(40) == 1.5


def test_learning_signal_needs_rewards():
    batch = replace(rollout_batch(), rewards=None)
    with pytest.raises(ValueError, match="learning-signal needs the rewards"):
        make_controller("learning-signal").update(batch)


def test_random_draws_all_candidates():
    rule = make_controller("random", run=RunSettings(seed=2))
    drawn = [rule.temperature(step) for step in range(2000)]
    assert sorted(set(drawn)) == list(CANDIDATES)
    assert min(drawn.count(t) for t in CANDIDATES) > 150


def test_tampo_logs_its_signal_with_its_error():
    """The error is that of a mean over prompts, as by hand."""
    rule, batch = make_controller("tampo"), rollout_batch(rows=12)
    rule.update(batch)
    logged = rule.metrics()
    specific = rule.meta_policy.rollout_advantages(batch.log_likelihoods, batch.advantages)
    means = specific.reshape(3, 4, 10).mean(axis=1)
    for k, t in enumerate(CANDIDATES):
        assert logged[f"meta_policy/signal({t:g})"] == pytest.approx(specific[:, k].mean())
        assert logged[f"meta_policy/signal_error({t:g})"] == pytest.approx(means[:, k].std(ddof=1) / math.sqrt(3))
        assert logged[f"meta_policy/average({t:g})"] == pytest.approx(0.05 * specific[:, k].mean())
    rule.update(replace(batch, groups=np.zeros(12, dtype=int)))
    assert not any("signal_error" in name for name in rule.metrics()), "one prompt says nothing of the others"


def test_relative_temperatures_are_scored_twice_divided():
    relative = make_controller("tampo", {"virtual_temperatures": "relative"})
    assert relative.scored_at(1.5) == pytest.approx([1.5 * t for t in CANDIDATES])
    assert make_controller("tampo").scored_at(1.5) is None, "the candidates"
    assert make_controller("fixed").scored_at(1.5) is None


def test_warmup_is_a_share_of_the_generation_batches():
    tampo = make_controller("tampo", run=RunSettings(total_batches=40, warmup_ratio=0.1, warmup_temperature=1.05))
    drawn = []
    for step in range(8):
        drawn.append(tampo.temperature(step))
        tampo.update(rollout_batch(seed=step))
    assert drawn[:4] == [1.05] * 4
    assert 1.05 not in drawn[4:]


def guarded_run(advantages, prefers, guard=4.0, batches=60, seed=0):
    """TAMPO with a noise guard after batches of noise; `prefers` adds to the log-likelihood of right rollouts."""
    generator = np.random.default_rng(seed)
    run = RunSettings(warmup_ratio=0.0, seed=seed)
    rule = make_controller("tampo", {"noise_guard": guard}, run=run)
    drawn, opened = [], []
    for step in range(batches):
        drawn.append(rule.temperature(step))
        signs = np.where(np.arange(64) % 2, 1.0, -1.0)
        scores = generator.normal(0, 1, (64, 10)) + np.where(signs[:, None] > 0, prefers, 0)
        rule.update(
            RolloutBatch(
                temperatures=np.linspace(0.6, 1.5, 10),
                log_likelihoods=scores,
                advantages=advantages * signs,
                lengths=np.ones(64),
                groups=np.arange(64) // 8,
            )
        )
        opened.append(rule.is_significant)
    return rule, drawn, opened


def test_the_noise_guard_holds_noise_back_and_lets_a_signal_through():
    """Noise alone moves an unguarded temperature; the guard opens in few steps of noise, and soon on a signal."""
    noise = [guarded_run(1.0, 0.0, seed=seed) for seed in range(20)]
    assert np.mean([opened for _, _, opened in noise]) < 0.05
    assert np.mean([np.array(drawn) != 1.0 for _, drawn, _ in noise]) < 0.05
    free = guarded_run(1.0, 0.0, guard=0.0)[1]
    assert np.std(free[10:]) > 0.1
    signal = np.zeros(10)
    signal[7] = 2.0
    rule, drawn, opened = guarded_run(1.0, signal)
    assert all(opened[10:])
    assert np.mean(drawn[30:]) > 1.1
    assert rule.metrics()["meta_policy/significant"] == 1


def test_the_covariance_of_the_averages_is_that_of_repeated_runs():
    """The variance of best less worst, estimated inside of one run, against its variance over 300 runs."""
    runs = [guarded_run(1.0, 0.0, batches=12, seed=seed)[0] for seed in range(300)]
    found = np.var([rule.meta_policy.advantages[3] - rule.meta_policy.advantages[8] for rule in runs], ddof=1)
    covariances = [rule._covariance for rule in runs]
    claimed = np.mean([c[3, 3] + c[8, 8] - 2 * c[3, 8] for c in covariances])
    assert claimed == pytest.approx(found, rel=0.25)


def test_a_guarded_tampo_resumes():
    rule, _, _ = guarded_run(1.0, 0.0, batches=5)
    again = make_controller("tampo", {"noise_guard": 4.0}, run=RunSettings(warmup_ratio=0.0))
    again.load_state_dict(json.loads(json.dumps(rule.state_dict())))
    assert again.metrics() == rule.metrics()
    assert np.array_equal(again._covariance, rule._covariance)


def test_observation_statistics():
    seen = RolloutBatch(
        temperatures=np.array([0.6, 1.0, 1.4]),
        log_likelihoods=np.array([[-3, -1, -2], [-1, -2, -3], [-5, -4, -1], [-1, -1, -1]], dtype=float),
        advantages=np.array([1.0, 2.0, -1.0, 0.0]),
        lengths=np.ones(4),
    )
    assert seen.optimal_temperatures.tolist() == [1.0, 0.6, 1.4, 0.6]  # Eq. 7; the lower one on a tie
    statistics = seen.statistics()
    assert statistics["optimal_temperature/positive_mean"] == pytest.approx(0.8)
    assert statistics["optimal_temperature/positive_std"] == pytest.approx(0.2)
    assert statistics["optimal_temperature/positive_count"] == 2
    assert statistics["optimal_temperature/negative_mean"] == pytest.approx(1.4)
    shares = {t: statistics[f"optimal_temperature/positive({t:g})"] for t in seen.temperatures}
    assert shares == {0.6: 0.5, 1.0: 0.5, 1.4: 0.0}
    flat = RolloutBatch(seen.temperatures, seen.log_likelihoods, np.zeros(4), seen.lengths)
    assert flat.statistics() == {}
    rewarded = replace(seen, rewards=np.array([1.0, 1, 0, 0]), sampled_log_likelihoods=seen.log_likelihoods[:, 1])
    logged = rewarded.statistics()
    assert logged["reward_at/1"] == 0.5
    assert logged["reward_at/1_samples"] == 1.0
    weights = np.exp([-2, 1, -1, 0])
    assert logged["reward_at/0.6"] == pytest.approx((weights[0] + weights[1]) / weights.sum())
    assert not any(name.startswith("reward_at") for name in replace(rewarded, scored_at=np.ones(3)).statistics())


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("sine", {}, "Unknown temperature controller 'sine'; known are tampo, fixed, linear, cosine"),
        ("fixed", {"value": 0.0}, "temperature must be positive"),
        ("linear", {"start_temperature": -1.0}, "start_temperature"),
        ("cosine", {"end_temperature": float("nan")}, "end_temperature"),
        ("staged", {"stages": ()}, "stages must be a list of at least one"),
        ("staged", {"stages": (1.0, -1.0)}, "stages must be positive"),
        ("entropy-target", {"target": -0.1}, "target must be a number of 0 or more"),
        ("entropy-target", {"gain": math.inf}, "gain must be a positive number"),
        ("entropy-match", {"target": -0.1}, "target must be a number of 0 or more"),
        ("entropy-match", {"rate": 0.0}, "rate must be a positive number"),
        ("entropy-match", {"rate": 1.5}, "rate must be between 0 and 1"),
        ("exp3", {"exploration": 1.1}, "exploration must be between 0 and 1"),
        ("ucb", {"exploration": -1.0}, "exploration must be a number of 0 or more"),
        ("tampo", {"likelihood": "max"}, "likelihood must be 'sum'"),
        ("tampo", {"virtual_temperatures": "twice"}, "virtual_temperatures must be one of absolute, relative"),
        ("score-function", {"rate": 0.0}, "rate must be a positive number"),
        ("learning-signal", {"alpha": 2.0}, "alpha must be between 0 and 1"),
        ("exp3", {"explration": 0.1}, "'exp3' does not know 'explration': did you mean 'exploration'"),
        ("e3", {"gain": 0.1}, "'e3' does not know 'gain': it has no parameters"),
        ("linear", 3, "parameters of a controller must be a mapping, got 3"),
    ],
)
def test_bad_parameters_are_named(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        make_controller(name, parameters)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("tampo", {"warmup_ratio": 2.0}, "meta_warmup_ratio must be between 0 and 1"),
        ("e3", {"warmup_ratio": -1.0}, "meta_warmup_ratio must be between 0 and 1"),
        ("e3", {"vocabulary_size": 2}, "vocabulary of at least 3"),
        ("tampo", {"temperatures": (1.0, 1.0)}, "distinct"),
        ("ucb", {"temperatures": ()}, "temperature_candidates must be a list"),
    ],
)
def test_bad_settings_are_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make_controller(name, run=RunSettings(**settings))


def test_parameters_that_have_names_of_their_own_are_not_given_twice():
    with pytest.raises(ValueError, match="alpha of the controller 'tampo' is a parameter by itself"):
        TAMPOConfig("out", temperature_controller_kwargs={"alpha": 0.1}, use_cpu=True, bf16=False)
    with pytest.raises(TypeError, match="no temperature_start any more; write temperature_controller_kwargs"):
        TAMPOConfig("out", temperature_start=0.9)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("exp3", {"log_weights": [0.0], "range": None, "generator": {}}),
        ("ucb", {"pulls": [1.0], "sums": [1.0], "range": None}),
        ("e3", {"current": -1.0, "target": None, "first": [], "batches": 0}),
        ("entropy-target", {"current": 1.0, "target": 0.0, "first": [], "batches": 0}),
    ],
)
def test_a_state_that_does_not_fit_is_refused(name, state):
    with pytest.raises(ValueError, match="temperature"):
        make_controller(name).load_state_dict(state)
