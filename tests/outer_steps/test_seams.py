"""A new algorithm is a class: a score term and an outer step of one's own train without a change to the package."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from toys import HORIZON, SAMPLES, differ, point_vec, state, tiny

from sb3_sgmrl import MAML, SGMRL
from sb3_sgmrl.outer_steps.base import OuterStep, check_finite
from sb3_sgmrl.score_terms.base import ScoreTerm


class EarlyRewards(ScoreTerm):
    """Weighs the scores of an episode by its first reward, relative to the others and to those of earlier iterations."""

    def __init__(self):
        self.mean = 0.0
        self.seen = []

    def check(self, settings):
        super().check(settings)
        if settings.n_episodes < 3:
            raise ValueError(f"`n_episodes` must be at least 3, got {settings.n_episodes}.")

    def coefficients(self, step):
        first = th.as_tensor(step.phase.batch.rewards[:, 0] - self.mean, dtype=step.samples.weights.dtype)
        self.seen.append((step.stage, step.task))
        return step.samples.per_sample(first) / len(step.samples.weights)

    def observe(self, rollout, estimate):
        self.mean = float(np.mean([trace[0].batch.rewards[:, 0].mean() for trace in rollout.traces]))
        return {"first_reward": self.mean}


class SignSteps(OuterStep):
    """Several steps along the sign of the gradient, without the policy's optimiser."""

    def __init__(self, learning_rate, n_epochs):
        self.learning_rate = learning_rate
        self.n_epochs = n_epochs

    def update(self, problem):
        estimate = problem.gradient()
        check_finite(estimate)
        with th.no_grad():
            for name, parameter in problem.policy.named_parameters():
                if name in estimate.gradient:
                    parameter += self.n_epochs * self.learning_rate * estimate.gradient[name].sign()
        return estimate


class ToyMAML(MAML):
    """An algorithm of one's own: MAML with another outer step and another score term."""

    outer_step = SignSteps(0.01, n_epochs=3)

    def __init__(self, *args, **kwargs):
        self._term = EarlyRewards()
        super().__init__(*args, **kwargs)

    @property
    def score_term(self):
        return self._term


def test_a_toy_algorithm_trains_by_its_own_outer_step_and_score_term():
    model = tiny(ToyMAML, point_vec(3), n_inner_steps=2)
    before = state(model)
    model.learn(SAMPLES)
    after, n_iterations = state(model), model._iteration
    for name in model.functional.adapted_names:
        steps = np.abs(after[name] - before[name]) / 0.03
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
        assert steps.max() <= n_iterations + 1e-3
    assert differ(before, after) == set(model.functional.adapted_names)
    assert not model.policy.optimizer.state  # Adam was not asked
    assert sorted(set(model._term.seen)) == [(stage, task) for stage in range(2) for task in range(3)]
    assert model._term.mean != 0.0


def test_a_toy_score_term_is_an_argument_of_sgmrl():
    term = EarlyRewards()
    model = tiny(SGMRL, point_vec(3), control_variate=term, score_coef=0.5).learn(SAMPLES, log_interval=None)
    assert term.seen and model.logger.name_to_value["train/first_reward"] == pytest.approx(term.mean)
    without = tiny(SGMRL, point_vec(3), score_coef=0).learn(SAMPLES)
    assert differ(state(model), state(without))


def test_a_toy_score_term_checks_the_settings():
    with pytest.raises(ValueError, match="`n_episodes` must be at least 3, got 2"):
        tiny(SGMRL, point_vec(3), control_variate=EarlyRewards(), n_episodes=2)
    with pytest.raises(ValueError, match="count a second time"):
        tiny(SGMRL, point_vec(3), control_variate=EarlyRewards(), inner_surrogate="dice")


def test_callbacks_see_the_environment():
    class Looks(BaseCallback):
        def _on_rollout_start(self):
            seen.append(self.locals["env"])

        def _on_step(self):
            seen.append(self.locals["env"])
            return True

    seen = []
    model = tiny(MAML, point_vec(3))
    model.learn(SAMPLES, Looks())
    assert len(seen) > HORIZON and all(env is model.env for env in seen)
