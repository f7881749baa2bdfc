"""One contract for every controller, and each rule against its formula."""

import json
import math

import numpy as np
import pytest

from tampo.bandits import EXP3, UCB
from tampo.config import TrainingConfig
from tampo.control import ControllerSettings, Observation
from tampo.controllers import CONTROLLERS, make_controller
from tampo.entropy_rules import E3, EntropyTarget

CANDIDATES = ControllerSettings().temperatures


def observation(rows=8, k=10, seed=0, reward=None, entropy=None):
    generator = np.random.default_rng(seed)
    return Observation(
        temperatures=np.linspace(0.6, 1.5, k),
        log_likelihoods=-generator.exponential(20, (rows, k)),
        advantages=generator.normal(size=rows),
        lengths=generator.integers(1, 50, rows).astype(float),
        reward=generator.uniform() if reward is None else reward,
        entropy=generator.exponential(0.3) if entropy is None else entropy,
    )


@pytest.mark.parametrize("name", CONTROLLERS)
def test_contract(name):
    """Temperatures stay between the ends; a restored state goes on with the same ones; metrics are numbers."""
    settings = ControllerSettings(total_steps=40, total_batches=40, seed=3)
    whole, other = make_controller(name, settings), make_controller(name, settings)
    for step in range(15):
        assert 0.6 <= whole.temperature(step) <= 1.5
        whole.update(observation(seed=step))
    other.load_state_dict(json.loads(json.dumps(whole.state_dict(), allow_nan=False)))
    for step in range(15, 40):
        assert whole.temperature(step) == other.temperature(step)
        for controller in (whole, other):
            controller.update(observation(seed=step))
    assert whole.state_dict() == other.state_dict()
    assert whole.metrics() == other.metrics()
    assert all(isinstance(value, float) for value in whole.metrics().values())


@pytest.mark.parametrize("name", CONTROLLERS)
def test_contract_for_batches_that_say_nothing(name):
    """No reward spread, no token, nobody could judge: no rule fails, or leaves its range."""
    controller = make_controller(name, ControllerSettings(total_steps=12, total_batches=12))
    nothing = observation(reward=math.nan, entropy=math.nan)
    empty = Observation(nothing.temperatures, np.zeros((4, 10)), np.zeros(4), np.zeros(4), 0.0, 0.0)
    for step in range(12):
        assert 0.6 <= controller.temperature(step) <= 1.5
        controller.update(nothing if step % 2 else empty)
    assert all(math.isfinite(value) for value in controller.metrics().values())


@pytest.mark.parametrize("name", CONTROLLERS)
def test_same_seed_same_temperatures(name):
    def draw(seed):
        controller = make_controller(name, ControllerSettings(total_steps=30, total_batches=30, seed=seed, p=1.0))
        drawn = []
        for step in range(30):
            drawn.append(controller.temperature(step))
            controller.update(observation(seed=step))
        return drawn

    assert draw(0) == draw(0)
    assert (draw(0) != draw(1)) == (name in ("tampo", "exp3"))  # the others draw nothing


@pytest.mark.parametrize("name", CONTROLLERS)
def test_what_a_rule_reads_are_parameters_of_a_training(name):
    """So that records of a training do not depend on what its rule does not read, and do on what it reads."""
    assert CONTROLLERS[name].parameters <= set(TrainingConfig.model_fields)
    identity = TrainingConfig(controller=name).identity()
    assert CONTROLLERS[name].parameters <= identity.keys()
    others = frozenset().union(*(rule.parameters for rule in CONTROLLERS.values())) - CONTROLLERS[name].parameters
    assert not others & identity.keys()


def test_records_of_the_first_three_rules_keep_their_names():
    """Rules and parameters that came later are not part of what earlier trainings are known by."""
    common = {
        *("suite", "data_revision", "model", "drop_overlaps", "train_problems", "data_seed", "reward_accuracy"),
        *("reward_format", "steps", "prompts_per_step", "num_generations", "micro_batch", "scoring_batch"),
        *("max_prompt_length", "max_completion_length", "learning_rate", "warmup_ratio", "beta", "loss_type"),
        *("max_grad_norm", "precision", "gradient_checkpointing", "rollout_engine", "engine_memory", "controller"),
        *("temperatures", "seed"),
    }
    own = {
        "fixed": {"temperature"},
        "linear": {"temperature_start", "temperature_end"},
        "tampo": {"alpha", "p", "likelihood", "meta_warmup_ratio", "meta_warmup_temperature"},
    }
    for name, parameters in own.items():
        assert TrainingConfig(controller=name).identity().keys() == common | parameters


def test_a_rule_of_ones_own_is_one_class_and_one_line(monkeypatch):
    from tampo.schedules import Fixed
    from tampo.trainer_config import TAMPOConfig

    class Sawtooth(Fixed):
        def temperature(self, step):
            return self.value + 0.1 * (step % 3)

    monkeypatch.setitem(CONTROLLERS, "sawtooth", Sawtooth)
    controller = make_controller("sawtooth", ControllerSettings(temperature=0.8))
    assert [controller.temperature(step) for step in range(4)] == pytest.approx([0.8, 0.9, 1.0, 0.8])
    assert TrainingConfig(controller="sawtooth").identity()["temperature"] == 1.0
    assert TAMPOConfig("out", temperature_controller="sawtooth", use_cpu=True, bf16=False).temperature_controller


def test_fixed_and_linear():
    fixed = make_controller("fixed", ControllerSettings(temperature=1.2))
    assert {fixed.temperature(step) for step in range(5)} == {1.2}
    linear = make_controller("linear", ControllerSettings(total_steps=7))
    np.testing.assert_allclose([linear.temperature(s) for s in range(7)], np.linspace(0.9, 1.5, 7))
    assert linear.temperature(100) == 1.5
    assert make_controller("linear", ControllerSettings(total_steps=1)).temperature(0) == 0.9


def test_cosine_is_half_a_cosine():
    """As torch's annealing, which goes from its learning rate to eta_min."""
    import torch

    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.9)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=1.5)
    cosine = make_controller("cosine", ControllerSettings(total_steps=21))
    for step in range(21):
        assert cosine.temperature(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        annealing.step()
    assert cosine.temperature(99) == 1.5


def test_staged_splits_the_run_evenly():
    settings = ControllerSettings(total_steps=10, temperature_stages=(1.4, 1.45, 1.5))
    staged = make_controller("staged", settings)
    assert [staged.temperature(step) for step in range(12)] == [1.4] * 4 + [1.45] * 3 + [1.5] * 5
    assert make_controller("staged", ControllerSettings(temperature_stages=(1.0,))).temperature(0) == 1.0


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
    rule = EntropyTarget(target=1.0, low=0.05, high=20.0, gain=0.5)
    for step in range(300):
        rule.update(observation(entropy=softmax_entropy(logits, rule.temperature(step))))
    assert rule.temperature(300) == pytest.approx(low, rel=1e-3)


def test_entropy_target_formula_and_clamps():
    rule = EntropyTarget(target=0.3, low=0.6, high=1.5, gain=0.5, current=1.0)
    rule.update(observation(entropy=0.1))
    assert rule.temperature(1) == pytest.approx(math.exp(0.5 * 0.2))
    for _ in range(50):
        rule.update(observation(entropy=0.0))
    assert rule.temperature(2) == 1.5
    for _ in range(50):
        rule.update(observation(entropy=1e6))
    assert rule.temperature(3) == 0.6


def test_the_entropy_of_the_warm_up_is_held():
    """target_entropy 0: T stays through the warm-up, whose mean is the target; then it moves."""
    settings = ControllerSettings(total_batches=30, target_entropy=0.0, meta_warmup_temperature=0.9)
    rule = make_controller("entropy-target", settings)
    for step, entropy in enumerate((0.2, 0.3, 0.7)):
        assert rule.temperature(step) == 0.9
        rule.update(observation(entropy=entropy))
    assert rule.metrics() == {"controller/target_entropy": pytest.approx(0.4)}
    assert rule.temperature(3) == 0.9
    rule.update(observation(entropy=0.2))
    assert rule.temperature(4) == pytest.approx(0.9 * math.exp(0.5 * 0.2))


def test_e3_formula():
    """arXiv 2505.18573: T <- T (1 + T ln(H* / H) / (ln V + ln ln V)), with H* of the first steps, and clamped."""
    rule = E3(target=None, low=0.6, high=1.5, current=1.2, warmup_batches=2, vocabulary=151_936)
    for entropy in (0.5, 0.3):
        rule.update(observation(entropy=entropy))
        assert rule.temperature(0) == 1.2
    rule.update(observation(entropy=0.1))
    expected = 1.2 * (1 + 1.2 * math.log(0.4 / 0.1) / (math.log(151_936) + math.log(math.log(151_936))))
    assert rule.temperature(3) == pytest.approx(expected)
    for _ in range(20):
        rule.update(observation(entropy=0.0))  # sure of everything: ln(H* / H) has no bound
    assert rule.temperature(4) == 1.5
    for _ in range(20):
        rule.update(observation(entropy=11.0))
    assert rule.temperature(5) == 0.6


def test_exp3_probabilities_by_hand():
    """Auer et al. 2002: w_k <- w_k exp(gamma x_k / (p_k K)); p = (1 - gamma) w / sum w + gamma / K."""
    rule = EXP3(CANDIDATES, exploration=0.3, seed=1)
    weights, low, high = np.ones(10), math.inf, -math.inf
    for step in range(200):
        np.testing.assert_allclose(rule.probabilities, 0.7 * weights / weights.sum() + 0.03, rtol=1e-9)
        arm = CANDIDATES.index(rule.temperature(step))
        reward = float(np.random.default_rng(step).normal())  # of any sign and size
        low, high = min(low, reward), max(high, reward)
        scaled = (reward - low) / (high - low) if high > low else 0.5
        weights[arm] *= math.exp(0.3 * scaled / (0.7 * weights[arm] / weights.sum() + 0.03) / 10)
        rule.update(observation(reward=reward))


def test_ucb_by_hand():
    rule = UCB(CANDIDATES, exploration=1.0)
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
        rule.update(observation(reward=pulled[arm][-1]))


@pytest.mark.parametrize("name", ["exp3", "ucb"])
def test_bandits_find_the_best_arm(name):
    """Of rewards that differ by arm: the best temperature is drawn more than any other, and bad ones seldom."""
    generator = np.random.default_rng(0)
    bandit = make_controller(name, ControllerSettings(exp3_exploration=0.1, ucb_exploration=0.5))
    drawn = []
    for step in range(4000):
        drawn.append(bandit.temperature(step))
        bandit.update(observation(reward=1 - abs(drawn[-1] - 1.3) + 0.05 * generator.normal()))
    late = drawn[2000:]
    assert max(set(late), key=late.count) == 1.3
    assert sum(abs(temperature - 1.3) < 0.15 for temperature in late) > 0.6 * len(late)


def test_warmup_is_a_share_of_the_generation_batches():
    settings = ControllerSettings(total_batches=40, meta_warmup_ratio=0.1, meta_warmup_temperature=1.05)
    tampo = make_controller("tampo", settings)
    drawn = []
    for step in range(8):
        drawn.append(tampo.temperature(step))
        tampo.update(observation(seed=step))
    assert drawn[:4] == [1.05] * 4
    assert 1.05 not in drawn[4:]


def test_observation_statistics():
    seen = Observation(
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
    flat = Observation(seen.temperatures, seen.log_likelihoods, np.zeros(4), seen.lengths)
    assert flat.statistics() == {}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sine", {}, "Unknown temperature controller 'sine'; known are tampo, fixed, linear, cosine"),
        ("fixed", {"temperature": 0.0}, "temperature must be positive"),
        ("linear", {"temperature_start": -1.0}, "temperature_start"),
        ("cosine", {"temperature_end": float("nan")}, "temperature_end"),
        ("staged", {"temperature_stages": ()}, "temperature_stages needs at least one"),
        ("staged", {"temperature_stages": (1.0, -1.0)}, "temperature_stages must be positive"),
        ("tampo", {"meta_warmup_ratio": 2.0}, "meta_warmup_ratio must be between 0 and 1"),
        ("e3", {"meta_warmup_ratio": -1.0}, "meta_warmup_ratio must be between 0 and 1"),
        ("e3", {"vocabulary": 2}, "vocabulary of at least 3"),
        ("entropy-target", {"target_entropy": -0.1}, "target_entropy must be a positive number"),
        ("entropy-target", {"entropy_gain": math.inf}, "entropy_gain must be a positive number"),
        ("exp3", {"exp3_exploration": 1.1}, "exp3_exploration must be between 0 and 1"),
        ("ucb", {"ucb_exploration": -1.0}, "ucb_exploration must be a number of 0 or more"),
        ("tampo", {"temperatures": (1.0, 1.0)}, "distinct"),
        ("ucb", {"temperatures": ()}, "temperatures must be a list"),
    ],
)
def test_bad_settings_are_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make_controller(name, ControllerSettings(**settings))


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
        make_controller(name, ControllerSettings()).load_state_dict(state)
