"""VecNormalize learns from what is played in training, and from nothing else."""

import pickle
from functools import partial

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize, sync_envs_normalization
from toys import ALGORITHMS, HORIZON, PointEnv, assert_same, point, point_vec, state, tiny

from sb3_sgmrl import MAML, SGMRL, MetaEvalCallback, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.common.sampling import collect_phase
from sb3_sgmrl.plots import navigation_trajectories
from sb3_sgmrl.vec_env.borrowing import tasks_released_afterwards
from sb3_sgmrl.vec_env.engines import as_task_vec_env

TASKS = [np.array([0.5, 0.5]), np.array([-0.5, 0.2]), np.array([0.1, -0.9])]
ENTROPY = [3, 1, 4]
GAMMA = 0.9


class Drift(PointEnv):
    """Actions make no difference, so that what is played does not depend on the statistics."""

    def step(self, action):
        return super().step(np.zeros(2, np.float32))


def drift(n_envs, **kwargs):
    return make_vec_env(lambda: TaskDistEnv(TimeLimit(Drift(**kwargs), HORIZON)), n_envs)


def collect(model, on_step=None):
    with tasks_released_afterwards(model.env):
        sets = [model.functional.parameters()]
        return collect_phase(model.env, model.functional, sets, TASKS, 4, ENTROPY, on_step)


def assert_learnt(statistics, values):
    expected = RunningMeanStd(shape=values.shape[1:])
    expected.update(values)
    assert statistics.count == pytest.approx(expected.count, rel=1e-12)
    np.testing.assert_allclose(statistics.mean, expected.mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(statistics.var, expected.var, rtol=1e-4, atol=1e-7)


def learnt(env):
    """All that a VecNormalize knows, as bytes."""
    observations = {key: vars(value) for key, value in env.obs_rms.items()} if env.norm_obs_keys else vars(env.obs_rms)
    return pickle.dumps((observations, vars(env.ret_rms), env.returns, env.training))


# ------------------------------------------------------------------------------------------------------------- training


def of_integers(keys=None):
    env = PointEnv()
    integers = spaces.Box(-8, 8, (2,), np.int64)
    env.observation_space = integers if keys is None else spaces.Dict(a=integers, b=spaces.Box(-8, 8, (2,)))
    return DummyVecEnv([lambda: TaskDistEnv(TimeLimit(env, HORIZON))])


def test_integers_are_not_normalised_away():
    with pytest.raises(ValueError, match="VecNormalize needs float observations of `env`, got int64"):
        tiny(SGMRL, VecNormalize(of_integers()))
    with pytest.raises(ValueError, match="VecNormalize needs float observations 'a' of `env`, got int64"):
        tiny(SGMRL, VecNormalize(of_integers("ab"), norm_obs_keys=["b", "a"]), "MultiInputPolicy")
    tiny(SGMRL, VecNormalize(of_integers("ab"), norm_obs_keys=["b"]), "MultiInputPolicy")
    tiny(SGMRL, VecNormalize(of_integers(), norm_obs=False))


@pytest.mark.parametrize("kind", ["vector", "dict", "frames"])
@pytest.mark.parametrize("n_envs", [1, 5, 20])
def test_only_what_is_played_is_learnt_from(kind, n_envs):
    """Of 12 episodes, some of which end early, five workers play unequal numbers, and of twenty some play none at all."""
    kwargs = {"observation": "dict" if kind == "dict" else "vector", "end": 0.3}
    keys = ["vector"] if kind == "dict" else None
    env = VecNormalize(drift(n_envs, **kwargs), norm_obs_keys=keys, gamma=GAMMA)
    policy = {"policy": "MultiInputPolicy", "policy_kwargs": {"features_extractor_kwargs": {"cnn_output_dim": 4}}}
    wrap = partial(VecFrameStack, n_stack=2) if kind == "frames" else lambda env: env
    model, raw = (tiny(MAML, wrap(e), **(policy if kind == "dict" else {})) for e in (env, drift(3, **kwargs)))
    phase, original = collect(model), collect(raw)
    assert not phase.mask.all()
    np.testing.assert_array_equal(phase.mask, original.mask)
    np.testing.assert_allclose(phase.episode_returns, original.episode_returns)
    observations = original.observations["vector"] if kind == "dict" else original.observations
    statistics = env.obs_rms["vector"] if kind == "dict" else env.obs_rms
    assert_learnt(statistics, observations[original.mask][:, -3:])  # the newest of the frames
    returns = np.zeros_like(original.rewards)
    for t in range(returns.shape[2]):
        returns[:, :, t] = GAMMA * (returns[:, :, t - 1] if t else 0) + original.rewards[:, :, t]
    assert_learnt(env.ret_rms, returns[original.mask])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", ["clones", "batched"])
def test_as_many_observations_as_samples(algorithm, kind):
    """The batched form has a column per episode, so that most are idle for most of the time when some end early."""
    nav = TaskDistEnv("Navigation2D-v0", max_episode_steps=HORIZON)
    env = VecNormalize(point_vec(20, end=0.4) if kind == "clones" else as_task_vec_env(nav, n_envs=50))
    model = tiny(algorithm, env).learn(300)
    assert env.obs_rms.count == pytest.approx(model.num_timesteps + 1e-4, rel=1e-12)
    assert env.ret_rms.count == pytest.approx(model.num_timesteps + 1e-4, rel=1e-12)


def test_where_all_workers_play_the_numbers_are_those_of_sb3():
    """Each value is normalised by statistics that know it already."""
    model = tiny(MAML, VecNormalize(point_vec(12), gamma=GAMMA))
    phase = collect(model)
    env = VecNormalize(point_vec(12), gamma=GAMMA)
    seeds = np.random.SeedSequence([*ENTROPY, 0]).generate_state(12)
    for e in range(12):
        env.env_method("set_schedule", [(TASKS[e // 4], int(seeds[e]))], indices=e)
    observations = env.reset()
    actions = np.clip(phase.actions, -1, 1).reshape(12, HORIZON, 2)
    for t in range(HORIZON):
        np.testing.assert_array_equal(phase.observations.reshape(12, HORIZON, 3)[:, t], observations)
        observations, rewards, _, _ = env.step(actions[:, t])
        np.testing.assert_array_equal(phase.rewards.reshape(12, HORIZON)[:, t], rewards)
    assert vars(env.ret_rms) == vars(model.env.ret_rms)


def test_callbacks_find_a_usual_vec_normalize():
    """They save it, synchronise another one with it, and so on."""
    env = VecNormalize(point_vec(5, end=0.3))
    below, seen = env.venv, []

    def on_step(step_locals, n_samples):
        seen.append((env.training, env.venv is below, env.get_original_obs().shape, env.get_original_reward().shape))
        return True

    collect(tiny(MAML, env), on_step)
    assert set(seen) == {(True, True, (5, 3), (5,))}
    assert env.training and env.venv is below


def test_statistics_that_stand_still():
    env = VecNormalize(point_vec(5, end=0.3), training=False)
    tiny(MAML, env).learn(1)
    assert env.obs_rms.count == env.ret_rms.count == 1e-4 and not env.returns.any() and not env.training


@pytest.mark.parametrize("switched_off", ["norm_obs", "norm_reward"])
def test_half_a_vec_normalize(switched_off):
    env = VecNormalize(point_vec(5, end=0.3), **{switched_off: False})
    model = tiny(MAML, env).learn(1)
    assert env.ret_rms.count == pytest.approx(model.num_timesteps + 1e-4)


def test_returns_are_reported_without_normalisation():
    with_monitor, without = VecNormalize(point_vec(3, end=0.2)), VecNormalize(DummyVecEnv([partial(point, end=0.2)] * 3))
    one, other = (collect(tiny(MAML, env)) for env in (with_monitor, without))
    np.testing.assert_allclose(one.episode_returns, other.episode_returns, rtol=1e-5)
    np.testing.assert_array_equal(one.rewards, other.rewards)
    assert not np.allclose(other.episode_returns, other.rewards.sum(-1), rtol=0.1)


# --------------------------------------------------------------------------------------------------- what is not training


def navigation(**kwargs):
    return VecNormalize(as_task_vec_env(TaskDistEnv("Navigation2D-v0", max_episode_steps=HORIZON), n_envs=20), **kwargs)


ON_THE_SIDE = {
    "adapt": lambda model, env: model.adapt(env, n_steps=2),
    "evaluate_adaptation": lambda model, env: evaluate_adaptation(model, env, n_tasks=2),
    "navigation_trajectories": lambda model, env: navigation_trajectories(
        model, model.env if env is None else env, [[0, 0.3]]
    ),
}


@pytest.mark.parametrize("name", ON_THE_SIDE)
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_learnt_on_the_side(name, own, training):
    model = tiny(SGMRL, navigation()).learn(1)
    env = model.env if own else navigation()
    env.training = training
    env.reset()
    env.step(np.zeros((20, 2), np.float32))
    sync_envs_normalization(model.env, env)
    before = learnt(env)
    ON_THE_SIDE[name](model, None if own else env)
    assert before == learnt(env)


def test_nothing_is_learnt_before_an_error():
    env = VecNormalize(point_vec(2))
    model = tiny(SGMRL, env, inner_lr=1e39)
    before = learnt(env)
    with pytest.raises(ValueError, match="NaN or infinite"):
        evaluate_adaptation(model, n_tasks=2)
    assert before == learnt(env)


@pytest.mark.parametrize("where", ["the environment of training", "another"])
def test_training_is_the_same_with_evaluations(where):
    def train(callback_of):
        env = navigation()
        model = tiny(SGMRL, env)
        model.learn(300, callback=callback_of(env))
        return model, env

    usual, env = train(lambda env: None)
    evaluated, evaluated_env = train(
        lambda env: MetaEvalCallback(env if where != "another" else navigation(), n_tasks=2, eval_freq=1, verbose=0)
    )
    assert_same(state(usual), state(evaluated))
    assert learnt(env) == learnt(evaluated_env)


def test_the_first_reset_is_not_learnt_from():
    """SB3 resets before it tells callbacks that training begins."""
    env, seen = VecNormalize(point_vec(3)), []

    class Look(BaseCallback):
        def _on_training_start(self):
            seen.append((env.obs_rms.count, env.training, env.get_original_obs().shape))

        def _on_step(self):
            return False

    tiny(SGMRL, env).learn(1, callback=Look())
    assert seen == [(1e-4, True, (3, 3))]
