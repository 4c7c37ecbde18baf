"""Settings a user may get wrong: one sentence that names the argument, before anything is sampled."""

import warnings
from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
import torch as th
from bad_input_tools import refuses, witness
from gymnasium.wrappers import TimeLimit
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.dqn.policies import DQNPolicy
from toys import ALGORITHMS, FAMILY, HORIZON, PointEnv, assert_same, point, point_vec, state, tiny

from sb3_sgmrl import EMAML, MAML, SGMRL, TRPOMAML, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.outer_steps.base import OuterProblem


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "name", ["meta_batch_size", "n_episodes", "n_outer_episodes", "n_inner_steps", "vf_epochs", "n_threads"]
)
@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, float("nan"), True, "3"])
def test_counts(algorithm, name, value):
    refuses(f"`{name}` must be a positive integer, got {value!r}", tiny, algorithm, witness(), **{name: value})


@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_the_number_of_workers(value):
    refuses("`n_envs` must be a positive integer", tiny, SGMRL, point(), n_envs=value)
    refuses("`n_envs` must be a positive integer", tiny, SGMRL, "Navigation2D-v0", n_envs=value)


def test_a_vec_env_has_its_own_number_of_workers():
    refuses("`n_envs` applies to a single environment", tiny, SGMRL, witness(), n_envs=3)


@pytest.mark.parametrize("kind", [np.int64, np.int16])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_numpy_integers_are_integers(algorithm, kind):
    """They count as many episodes, and seed the same ones."""
    counts = {"meta_batch_size": 2, "n_episodes": 3, "n_outer_episodes": 4, "n_inner_steps": 2, "n_threads": 1, "seed": 7}
    model, expected = (tiny(algorithm, point_vec(2), **{name: of(n) for name, n in counts.items()}) for of in (kind, int))
    model.learn(kind(1))
    assert model.num_timesteps == 2 * (3 + 3 + 4) * HORIZON
    assert_same(state(model), state(expected.learn(1)))
    assert evaluate_adaptation(model, n_tasks=kind(2), n_steps=kind(1), n_episodes=kind(3)).returns.shape == (2, 2)


@pytest.mark.parametrize(
    ("name", "values", "match"),
    [
        ("inner_lr", [0, -0.1, float("inf"), float("nan"), "0.1", None], "positive and finite"),
        ("inner_lr", [True], "positive and finite"),
        ("learning_rate", [-1, float("inf"), float("nan"), "1"], "finite number of at least 0"),
        ("max_grad_norm", [0, -1, float("nan"), "1"], "positive, or None"),
        ("inner_lr_learning_rate", [0, -1, float("nan"), float("inf"), "1", True], "positive and finite, or None"),
        ("gamma", [-0.1, 1.1, float("nan"), "0.9"], r"lie in \[0, 1\]"),
        ("gae_lambda", [-0.1, 1.1, None], r"lie in \[0, 1\]"),
        ("baseline", ["linaer", None], "one of linear, critic, none"),
        ("discount_from", ["start"], "one of step, episode"),
        ("time_reduction", ["max"], "one of mean, sum"),
        ("inner_surrogate", ["dcie"], "one of pathwise, lvc, dice"),
    ],
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_numbers_and_choices(algorithm, name, values, match):
    for value in values:
        refuses(f"`{name}` must.* {match}", tiny, algorithm, witness(), **{name: value})


@pytest.mark.parametrize("algorithm", FAMILY)
def test_every_argument_is_one_of_the_constructor(algorithm):
    assert set(algorithm.arguments) == set(signature(algorithm).parameters)


def test_the_score_term():
    choices = "refitted_causal, refitted, linearized, none, leave_one_task_out, leave_one_out_return, task_regression, count.*"
    refuses(f"`control_variate` must be one of {choices}", tiny, SGMRL, witness(), control_variate="loo")
    with pytest.raises(TypeError, match=r"^'score_coef' is not an argument of MAML"):
        tiny(MAML, witness(), score_coef=1.0)
    with pytest.raises(TypeError, match=r"^'score_coef_prior' is not an argument of TRPOMAML"):
        tiny(TRPOMAML, witness(), score_coef_prior=50)
    with pytest.raises(TypeError, match=r"^'inner_lrr' is not an argument of SGMRL: did you mean 'inner_lr'"):
        tiny(SGMRL, witness(), inner_lrr=1)
    for value in (-0.1, 1.1, float("nan"), "1", None):
        refuses("`score_coef` must lie in .* or be 'auto'", tiny, SGMRL, witness(), score_coef=value)
        refuses("`score_gae_lambda` must lie in", tiny, SGMRL, witness(), score_gae_lambda=value)
    for value in (-0.1, float("inf"), float("nan"), "1", None):
        refuses("`score_coef_prior` must be a finite number of", tiny, SGMRL, witness(), score_coef_prior=value)


def test_settings_of_the_outer_surrogate():
    refuses(
        "`outer_advantage` must hold only gamma, gae_lambda.*got 'normalise'",
        tiny,
        SGMRL,
        witness(),
        outer_advantage={"normalise": False},
    )
    refuses("`gamma` must lie in", tiny, SGMRL, witness(), outer_advantage={"gamma": 2})


def test_leaving_one_out_of_one():
    for variate in ("refitted", "refitted_causal", "leave_one_out_return", "counterfactual"):
        refuses(rf"`n_episodes` must be at least 2 .*{variate}", tiny, SGMRL, witness(), n_episodes=1, control_variate=variate)
        tiny(SGMRL, point_vec(1), n_episodes=1, control_variate=variate, score_coef=0.0)
    refuses(
        "`meta_batch_size` must be at least 2", tiny, SGMRL, witness(), meta_batch_size=1, control_variate="leave_one_task_out"
    )
    tiny(SGMRL, point_vec(1), n_episodes=1, control_variate="none").learn(1)
    tiny(MAML, point_vec(1), n_episodes=1).learn(1)
    tiny(SGMRL, point_vec(1), meta_batch_size=1).learn(1)


def test_what_cannot_be_scaled():
    refuses(
        "`control_variate_scaling` must be False .*'refitted_causal'", tiny, SGMRL, witness(), control_variate_scaling=True
    )
    tiny(SGMRL, point_vec(1), control_variate_scaling=True, score_coef=0.0)
    tiny(SGMRL, point_vec(1), control_variate_scaling=True, control_variate="none")


@pytest.mark.parametrize("kind", ["lvc", "dice"])
def test_what_would_be_counted_twice(kind):
    refuses(f"`inner_surrogate='{kind}'` .*score_coef=0", tiny, SGMRL, witness(), inner_surrogate=kind)
    tiny(SGMRL, point_vec(1), inner_surrogate=kind, score_coef=0.0, n_epochs=1)
    tiny(MAML, point_vec(1), inner_surrogate=kind)
    refuses(f"`inner_surrogate='{kind}'` .*MAML", tiny, EMAML, witness(), inner_surrogate=kind)


def test_first_order_with_a_score_term_is_warned_of():
    with pytest.warns(UserWarning, match="`first_order=True` .*most biased") as caught:
        SGMRL("MlpPolicy", point_vec(1), first_order=True)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="`episodes` look clipped") as caught:
        tiny(MAML, point_vec(1)).adapt(episodes=PhaseBatch.from_episodes([(np.zeros((5, 3)), np.ones((5, 2)), np.zeros(5))]))
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny(MAML, point_vec(1), first_order=True)
        tiny(SGMRL, point_vec(1), first_order=True, score_coef=0.0)
        tiny(SGMRL, point_vec(1))


def test_counts_of_adapt_and_evaluation():
    model = tiny(SGMRL, witness())
    for value in (0, -1, 1.5, "2", True):
        for name in ("n_steps", "n_episodes"):
            refuses(f"`{name}` must be a positive integer", model.adapt, task=[0.1, 0.1], **{name: value})
            refuses(f"`{name}` must be a positive integer", evaluate_adaptation, model, **{name: value})
        refuses("`n_tasks` must be a positive integer", evaluate_adaptation, model, n_tasks=value)


def episodes(n_tasks=1, size=3):
    shape = (n_tasks, 2, 3)
    ones = np.ones(shape)
    return PhaseBatch(np.zeros((*shape, size), np.float32), np.zeros((*shape, 2), np.float32), ones, ones > 0, ones.sum(-1))


def test_given_episodes():
    model = tiny(SGMRL, witness())
    for wrong in (episodes(2), episodes().task(0), 5):
        refuses("`episodes` must be a PhaseBatch of one task", model.adapt, episodes=wrong)
    for more in ({"n_steps": 2}, {"n_episodes": 3}, {"task": [0.1, 0.2]}, {"env": point()}):
        refuses("`episodes` must be given without", model.adapt, episodes=episodes(), **more)
    given = episodes()
    refuses("must hold observations of", model.adapt, episodes=replace(given, observations=given.observations[..., :2]))
    refuses("must hold actions of", model.adapt, episodes=replace(given, actions=given.actions[..., :1]))
    for name in ("observations", "actions", "rewards"):
        refuses("must be finite", model.adapt, episodes=replace(given, **{name: np.full_like(getattr(given, name), np.nan)}))
    model.adapt(episodes=given)


# ------------------------------------------------------------------------------------------------------------ what else


def test_policies_and_optimisers_that_cannot_be_adapted():
    refuses("`policy` must be an ActorCriticPolicy that is not recurrent", tiny, SGMRL, witness(), policy=DQNPolicy)
    refuses("not recurrent", tiny, SGMRL, witness(), policy=RecurrentActorCriticPolicy)
    refuses("`use_sde`", tiny, SGMRL, witness(), policy_kwargs={"use_sde": True})
    refuses("LBFGS", tiny, SGMRL, witness(), policy_kwargs={"optimizer_class": th.optim.LBFGS})


def test_how_long_to_learn():
    model = tiny(SGMRL, witness())
    refuses("`total_timesteps` must not be negative", model.learn, -1)
    refuses("`total_timesteps` must not be negative", model.learn, float("nan"))
    refuses("`log_interval` must be a positive integer", model.learn, 1, log_interval=0)


def test_settings_changed_afterwards(tmp_path):
    model = tiny(SGMRL, witness())
    model.save(tmp_path / "model")
    model.n_episodes = 1
    refuses("`n_episodes` must be at least 2", model.learn, 1)
    refuses("`inner_lr` must", SGMRL.load, tmp_path / "model", env=witness(), inner_lr=-1)
    refuses("`n_envs` cannot be changed", SGMRL.load, tmp_path / "model", env=witness(), n_envs=3)
    refuses("`engine` cannot be changed", SGMRL.load, tmp_path / "model", env=witness(), engine="subprocess")
    with pytest.raises(ValueError, match=r"'iner_lr' is not an argument of SGMRL: did you mean 'inner_lr'\?"):
        SGMRL.load(tmp_path / "model", iner_lr=0.5)
    refuses("`baseline` must be one of", SGMRL.load, tmp_path / "model", custom_objects={"baseline": "x"})


# --------------------------------------------------------------------------------------------------- numbers that explode


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_inner_step_that_explodes(algorithm):
    model = tiny(algorithm, point_vec(2), inner_lr=1e39)
    before = state(model)
    with pytest.raises(
        ValueError, match=r"^The inner step of task \[.*\] made parameters NaN or infinite; `inner_lr` should be smaller\.$"
    ):
        model.learn(1)
    assert_same(before, state(model))
    assert model._n_updates == 0
    with pytest.raises(ValueError, match=r"The inner step of task \[0.1, 0.2\] made"):
        model.adapt(task=[0.1, 0.2])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_meta_gradient_that_explodes(algorithm, monkeypatch):
    model = tiny(algorithm, point_vec(2))
    model.learn(1)
    before, optimizer = state(model), str(model.policy.optimizer.state_dict())
    estimate = OuterProblem.gradient

    def explode(problem, *args):
        found = estimate(problem, *args)
        found.gradient["log_std"][0] = th.nan
        return found

    with monkeypatch.context() as patched:
        patched.setattr(OuterProblem, "gradient", explode)
        with pytest.raises(ValueError, match="The meta-gradient is NaN or infinite"):
            model.learn(1)
    assert_same(before, state(model))
    assert optimizer == str(model.policy.optimizer.state_dict())
    model.learn(1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rewards_that_are_not_finite_are_not_learnt_from(algorithm):
    class Nan(PointEnv):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, (np.nan if self.goal[0] > 0.9 else reward), *rest

    def make():
        return TaskDistEnv(TimeLimit(Nan(), HORIZON), tasks=[np.zeros(2), np.array([0.95, 0.0])], set_task="goal")

    model = tiny(algorithm, make_vec_env(make, 3), meta_batch_size=8)
    before = state(model)
    with pytest.raises(ValueError, match=r"The reward of worker \d, task \[0.95 0.  \], is NaN or infinite"):
        model.learn(1)
    assert_same(before, state(model))


def test_more_than_the_machine_has_memory_for(tmp_path, monkeypatch):
    too_much = r"A meta-iteration would take \d+ GiB .*`meta_batch_size`"
    refuses(too_much, tiny, SGMRL, witness(), meta_batch_size=10**9)
    # loaded models are measured by their own settings, not by the defaults
    small, large = (tiny(SGMRL, point(), meta_batch_size=n) for n in (1, 100))
    for name, model in {"small": small, "large": large}.items():
        model.save(tmp_path / name)
    monkeypatch.setattr("sb3_sgmrl.gradient.memory.os.sysconf", lambda name: 200)
    SGMRL.load(tmp_path / "small", env=point())
    with pytest.raises(ValueError, match=too_much):
        SGMRL.load(tmp_path / "large", env=point())
