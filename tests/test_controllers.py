"""One contract for every controller, and each rule against its formula."""

import json

import numpy as np
import pytest

from tampo.controllers import CONTROLLERS, ControllerSettings, Observation, make_controller


def observation(rows=8, k=10, seed=0):
    generator = np.random.default_rng(seed)
    return Observation(
        temperatures=np.linspace(0.6, 1.5, k),
        log_likelihoods=-generator.exponential(20, (rows, k)),
        advantages=generator.normal(size=rows),
        lengths=generator.integers(1, 50, rows).astype(float),
    )


@pytest.mark.parametrize("name", CONTROLLERS)
def test_contract(name):
    """Temperatures are candidates or within the rule's ends; a restored state goes on with the same ones."""
    settings = ControllerSettings(total_steps=20, total_batches=20, seed=3)
    whole, other = make_controller(name, settings), make_controller(name, settings)
    for step in range(8):
        assert 0.6 <= whole.temperature(step) <= 1.5
        whole.update(observation(seed=step))
    other.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for step in range(8, 20):
        assert whole.temperature(step) == other.temperature(step)
        for controller in (whole, other):
            controller.update(observation(seed=step))
    assert whole.state_dict() == other.state_dict()
    assert all(isinstance(value, float) for value in whole.metrics().values())


def test_fixed_and_linear():
    fixed = make_controller("fixed", ControllerSettings(temperature=1.2))
    assert {fixed.temperature(step) for step in range(5)} == {1.2}
    linear = make_controller("linear", ControllerSettings(total_steps=7))
    np.testing.assert_allclose([linear.temperature(s) for s in range(7)], np.linspace(0.9, 1.5, 7))
    assert linear.temperature(100) == 1.5
    assert make_controller("linear", ControllerSettings(total_steps=1)).temperature(0) == 0.9


def test_warmup_is_a_share_of_the_generation_batches():
    tampo = make_controller("tampo", ControllerSettings(total_batches=40, warmup_ratio=0.1, warmup_temperature=1.05))
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
        ("cosine", {}, "Unknown temperature controller 'cosine'; known are tampo, fixed, linear"),
        ("fixed", {"temperature": 0.0}, "temperature must be positive"),
        ("linear", {"temperature_start": -1.0}, "temperature_start"),
        ("linear", {"temperature_end": float("nan")}, "temperature_end"),
        ("tampo", {"warmup_ratio": 2.0}, "warmup_ratio must be between 0 and 1"),
        ("tampo", {"candidates": (1.0, 1.0)}, "distinct"),
    ],
)
def test_bad_settings_are_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make_controller(name, ControllerSettings(**settings))
