"""What works with SB3's own algorithms works with these: environments, parameters, logs."""

from copy import deepcopy

import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import (
    BaseCallback,
    EvalCallback,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)
from toys import ALGORITHMS, HORIZON, SAMPLES, PointEnv, SmallCnn, assert_same, point, point_vec, state, tiny

from sb3_sgmrl import SGMRL, TaskDistEnv

GOAL = np.array([0.8, -0.3])


# ----------------------------------------------------------------------------------------------------------- environments


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_vec_normalize(algorithm):
    env = VecNormalize(point_vec(4), gamma=0.9)
    model = tiny(algorithm, env)
    assert model.get_vec_normalize_env() is env
    rewards = []

    class Look(BaseCallback):
        def _on_step(self):
            rewards.extend(env.get_original_reward())
            return True

    model.learn(1, callback=Look())
    assert env.obs_rms.count > SAMPLES / 2
    # returns are reported as the environment gives them
    assert np.mean([info["r"] for info in model.ep_info_buffer]) == pytest.approx(np.mean(rewards) * HORIZON, rel=1e-3)
    policy = model.adapt(task=GOAL)
    evaluate_policy(policy, env, n_eval_episodes=2, warn=False)


def test_vec_normalize_of_training_and_evaluation_are_synchronised():
    env, eval_env = VecNormalize(point_vec(4)), VecNormalize(point_vec(1), training=False)
    tiny(SGMRL, env).learn(1, callback=EvalCallback(eval_env, eval_freq=10, n_eval_episodes=1, verbose=0))
    assert eval_env.obs_rms.count > 50


def test_vec_monitor():
    env = VecMonitor(DummyVecEnv([point] * 4))
    model = tiny(SGMRL, env).learn(1)
    assert len(model.ep_info_buffer) == 24 and all(info["l"] == HORIZON for info in model.ep_info_buffer)


def test_vec_frame_stack():
    """Frames of the episode before must not be in the stack: the same with any number of workers."""
    results = []
    for n in (1, 4):
        model = tiny(SGMRL, VecFrameStack(point_vec(n, end=0.2), 3))
        assert model.observation_space.shape == (9,)
        results.append(state(model.learn(1)))
    assert_same(*results)


def test_images_are_transposed():
    kwargs = {"policy_kwargs": {"features_extractor_class": SmallCnn}}
    model = tiny(SGMRL, point_vec(2, observation="image"), "CnnPolicy", **kwargs)
    assert isinstance(model.env, VecTransposeImage) and model.observation_space.shape == (1, 36, 36)
    by_hand = tiny(SGMRL, VecTransposeImage(point_vec(3, observation="image")), "CnnPolicy", **kwargs)
    assert_same(state(model.learn(1)), state(by_hand.learn(1)))
    policy = model.adapt(point(observation="image"), task=GOAL)
    assert evaluate_policy(policy, model.env, n_eval_episodes=2)[0] < 0


def test_make_vec_env_with_a_registered_family():
    env = make_vec_env("Navigation2D-v0", 3, wrapper_class=TaskDistEnv, env_kwargs={"max_episode_steps": HORIZON})
    model = tiny(SGMRL, env).learn(1)
    # the wrapper is above the monitor, as in RL Zoo
    assert model.num_timesteps == SAMPLES and len(model.ep_info_buffer) == 24
    single = tiny(SGMRL, TaskDistEnv("Navigation2D-v0", max_episode_steps=HORIZON)).learn(1)
    assert_same(state(model), state(single))


def test_a_monitor_around_a_single_environment():
    assert_same(state(tiny(SGMRL, Monitor(point())).learn(1)), state(tiny(SGMRL, point()).learn(1)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_set_env_with_another_number_of_workers(algorithm):
    model, other = tiny(algorithm, point_vec(2)), tiny(algorithm, point_vec(2))
    model.learn(1)
    other.learn(1)
    model.set_env(point_vec(5))
    assert model.n_envs == model.get_env().num_envs == 5
    assert_same(state(model.learn(1, reset_num_timesteps=False)), state(other.learn(1, reset_num_timesteps=False)))
    model.set_env(point())  # a single one, too
    model.learn(1)
    model.set_env(VecNormalize(point_vec(3)))
    assert model.get_vec_normalize_env() is model.get_env()


def test_two_environments_that_differ_in_their_tasks_only():
    """``load(env=...)`` and ``set_env`` are how a meta-policy meets another family."""

    class Far(PointEnv):
        def sample_tasks(self, n, rng):
            return [np.array([1.0, 1.0])] * n

    model = tiny(SGMRL, point_vec(2))
    model.set_env(make_vec_env(lambda: TaskDistEnv(TimeLimit(Far(), HORIZON)), 2))
    tasks = []

    class Look(BaseCallback):
        def _on_step(self):
            tasks.extend(self.training_env.env_method("get_task"))
            return True

    model.learn(1, callback=Look())
    assert np.unique(tasks).tolist() == [1.0]


# ------------------------------------------------------------------------------------------------- parameters and policies


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_get_and_set_parameters(algorithm):
    model, other = tiny(algorithm, point_vec(2)).learn(1), tiny(algorithm, point_vec(3), seed=5)
    parameters = deepcopy(model.get_parameters())
    assert parameters.keys() == {"policy", "policy.optimizer"}
    other.set_parameters(parameters)
    assert_same(state(model), state(other))
    # sampling and training go on from them
    other._entropy, other._iteration = model._entropy, model._iteration
    if algorithm is SGMRL:
        other._signal_weights = deepcopy(model._signal_weights)
    assert_same(state(model.learn(1)), state(other.learn(1)))
    with pytest.raises(ValueError, match="parameters"):
        other.set_parameters({"policy": parameters["policy"]})
    partial = {"policy": {"log_std": th.full((2,), -1.0)}}
    other.set_parameters(partial, exact_match=False)
    assert other.policy.log_std.tolist() == [-1, -1]
    assert (other.functional.parameters()["log_std"] == -1).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_policy_in_the_place_of_the_first(algorithm):
    """Sampling, gradients and the critic follow it."""
    model, usual = (tiny(algorithm, point_vec(2), baseline="critic") for _ in range(2))
    other = tiny(algorithm, point_vec(2), seed=5)
    usual.set_parameters(other.get_parameters())
    left = model.policy
    before = deepcopy(left.state_dict())
    model.policy = other.policy
    assert model.functional.policy is other.policy and model.functional is model.functional
    assert_same(state(model.learn(1)), state(usual.learn(1)))
    for name, value in left.state_dict().items():
        assert th.equal(value, before[name])
    assert th.equal(model.adapt(task=GOAL).action_net.weight, usual.adapt(task=GOAL).action_net.weight)


def test_predict():
    model = tiny(SGMRL, point_vec(2)).learn(1)
    observations = model.env.reset()
    actions, _ = model.predict(observations, deterministic=True)
    assert actions.shape == (2, 2) and model.action_space.contains(actions[0])
    np.testing.assert_array_equal(actions[0], model.predict(observations[0], deterministic=True)[0])
    mean, std = evaluate_policy(model, model.env, n_eval_episodes=3)
    assert np.isfinite([mean, std]).all()


def test_logger(tmp_path):
    model = tiny(SGMRL, point_vec(2))
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(2 * SAMPLES)
    model.logger.close()
    header, *rows = (tmp_path / "progress.csv").read_text().splitlines()
    assert len(rows) == 2
    expected = {"rollout/ep_rew_mean", "rollout/ep_rew_mean_pre", "rollout/ep_rew_mean_post", "train/grad_norm", "time/fps"}
    assert expected <= set(header.split(","))


def test_verbose_prints_a_table(capsys):
    tiny(SGMRL, point_vec(2), verbose=1).learn(1)
    assert "ep_rew_mean_post" in capsys.readouterr().out
    tiny(SGMRL, point_vec(2)).learn(1)
    assert capsys.readouterr().out == ""
