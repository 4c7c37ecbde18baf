"""Meta-iterations of SGMRL, MAML and EMAML."""

import weakref
from copy import deepcopy
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from toys import (
    ACTIONS,
    ALGORITHMS,
    FAMILY,
    HORIZON,
    OBSERVATIONS,
    SAMPLES,
    LinearExtractor,
    PointEnv,
    SmallCnn,
    differ,
    point,
    point_vec,
    rollout_of,
    rotated,
    state,
    tiny,
    vector,
)

from sb3_sgmrl import MAML, SGMRL, TaskDistEnv


@pytest.mark.parametrize(("algorithm", "action", "observation"), rotated(FAMILY, ACTIONS, OBSERVATIONS))
def test_every_kind_of_space(algorithm, observation, action):
    name, kwargs = {
        "image": ("CnnPolicy", {"features_extractor_class": SmallCnn}),
        "dict": ("MultiInputPolicy", {"features_extractor_kwargs": {"cnn_output_dim": 4}}),
    }.get(observation, ("MlpPolicy", {}))
    env = point_vec(3, observation=observation, action=action, end=0.2)
    model = tiny(algorithm, env, name, policy_kwargs=kwargs, meta_batch_size=2)
    before = state(model)
    model.learn(1)
    changed = differ(before, state(model))
    assert changed >= set(model.functional.adapted_names)
    assert all(np.isfinite(value).all() for value in state(model).values())
    assert model._n_updates == 1


@pytest.mark.parametrize("algorithm", FAMILY)
@pytest.mark.parametrize("n_inner_steps", [1, 2, 3])
def test_a_meta_iteration_is_finished_and_every_sample_counted(algorithm, n_inner_steps):
    model = tiny(algorithm, point_vec(3), n_inner_steps=n_inner_steps, n_outer_episodes=2)
    samples = 3 * HORIZON * (4 * n_inner_steps + 2)
    model.learn(1)
    assert (model.num_timesteps, model._n_updates) == (samples, 1)
    model.learn(samples)
    assert (model.num_timesteps, model._n_updates) == (samples, 2)
    model.learn(samples + 1)
    assert (model.num_timesteps, model._n_updates) == (2 * samples, 4)
    model.learn(1, reset_num_timesteps=False)
    assert (model.num_timesteps, model._n_updates) == (3 * samples, 5)


def test_samples_of_episodes_that_end_early_are_counted_too():
    model = tiny(SGMRL, point_vec(4, end=0.3))
    rollout = rollout_of(model)
    masks = [phase.batch.mask for trace in rollout.traces for phase in trace]
    assert model.num_timesteps == sum(int(mask.sum()) for mask in masks) < SAMPLES
    assert len(rollout.tasks) == len(rollout.traces) == 3


def distribution(model, parameters, batch):
    """SB3's policy with the parameters, and its distribution of the actions."""
    policy = deepcopy(model.policy)
    policy.load_state_dict({**policy.state_dict(), **parameters})
    return policy, policy.get_distribution(th.as_tensor(batch.observations.reshape(-1, 3))).distribution


def noise_of(model, phase):
    """The random numbers that made the actions of a phase."""
    actions = distribution(model, phase.parameters, phase.batch)[1]
    return ((th.as_tensor(phase.batch.actions.reshape(-1, 2)) - actions.mean) / actions.stddev).detach().numpy()


def after_a_step_of_sgd(model, phase, gamma=0.8):
    """The parameters after a step on SB3's policy along Σ A log π / n, A the discounted centred rewards to go, normalised."""
    rewards = phase.batch.rewards - phase.batch.rewards.mean()
    to_go = np.stack([(rewards[:, t:] * gamma ** np.arange(HORIZON - t)).sum(1) for t in range(HORIZON)], axis=1)
    advantages = th.as_tensor((to_go - to_go.mean()) / to_go.std(), dtype=th.float32).flatten()
    policy, actions = distribution(model, phase.parameters, phase.batch)
    optimiser = th.optim.SGD(policy.parameters(), lr=model.inner_lr)
    log_prob = actions.log_prob(th.as_tensor(phase.batch.actions.reshape(-1, 2))).sum(1)
    (-(advantages * log_prob).mean()).backward()
    optimiser.step()
    return {name: value.detach() for name, value in policy.named_parameters() if name in phase.parameters}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_phases_are_played_with_the_adapted_parameters(algorithm):
    """Each phase by the parameters that an inner step on the one before it gives."""
    settings = {
        "n_inner_steps": 2,
        "n_episodes": 3,
        "n_outer_episodes": 5,
        "baseline": "none",
        "gamma": 0.8,
        "gae_lambda": 1.0,
    }
    models = [tiny(algorithm, point_vec(3), inner_lr=inner_lr, **settings) for inner_lr in (0.1, 0.4)]
    noise = []
    for model in models:
        noise.append([])
        for trace in rollout_of(model).traces:
            assert [phase.batch.n_episodes for phase in trace] == [3, 3, 5]
            th.testing.assert_close(vector(trace[0].parameters), vector(model.functional.parameters()), rtol=0, atol=0)
            for phase, following in pairwise(trace):
                expected = after_a_step_of_sgd(model, phase)
                assert expected.keys() == following.parameters.keys()
                for name, value in expected.items():
                    th.testing.assert_close(following.parameters[name], value, rtol=1e-4, atol=1e-6)
            noise[-1] += [noise_of(model, phase) for phase in trace]
    # the random numbers of an action depend on the seed only: from other adapted parameters they make other actions
    for one, other in zip(*noise, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert abs(np.concatenate(noise[0]).std() - 1) < 0.1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_optimiser_follows_the_meta_gradient(algorithm):
    policy_kwargs = {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {}}
    model = tiny(algorithm, point_vec(3), n_epochs=1, learning_rate=0.5, max_grad_norm=None, policy_kwargs=policy_kwargs)
    before = model.functional.parameters()
    rollout = rollout_of(model)
    gradient = model.meta_gradient(rollout).gradient
    model.train(rollout)
    after = model.functional.parameters()
    for name in before:
        th.testing.assert_close(after[name], before[name] + 0.5 * gradient[name])
    clipped = tiny(algorithm, point_vec(3), n_epochs=1, learning_rate=0.5, max_grad_norm=1e-3, policy_kwargs=policy_kwargs)
    clipped.train(rollout_of(clipped))
    difference = vector(clipped.functional.parameters()) - vector(before)
    assert float(difference.norm()) == pytest.approx(0.5e-3, rel=1e-2)
    th.testing.assert_close(difference / difference.norm(), vector(gradient) / vector(gradient).norm(), rtol=1e-2, atol=1e-3)


def test_actions_in_double_precision():
    def make():
        env = PointEnv()
        env.action_space = spaces.Box(-1, 1, (2,), np.float64)
        return TaskDistEnv(gym.wrappers.TimeLimit(env, HORIZON))

    env = make_vec_env(make, 3)
    single, double = (tiny(SGMRL, e, score_coef=1.0).learn(2 * SAMPLES) for e in (point_vec(3), env))
    assert double.action_space.dtype == np.float64
    for name, value in state(single).items():
        np.testing.assert_allclose(state(double)[name], value, rtol=1e-3, atol=1e-5)


def test_tasks_need_not_be_numbers():
    """Only the regression on tasks wants to know more of them than that the environment takes them."""

    class Named(PointEnv):
        def __init__(self):
            super().__init__()
            del self.task_space

        def sample_tasks(self, n, rng):
            return [{"name": "near" if x < 0.5 else "far"} for x in rng.random(n)]

        def set_task(self, task):
            self.goal = np.array([0.1, 0.1]) if task["name"] == "near" else np.array([-1.0, 1.0])

    model = tiny(SGMRL, make_vec_env(lambda: TaskDistEnv(gym.wrappers.TimeLimit(Named(), HORIZON)), 2))
    model.learn(1)
    assert model._n_updates == 1


def test_learning_rate_schedules_end_at_zero_and_not_below():
    """The last iteration overshoots ``total_timesteps``."""
    seen = []

    def schedule(remaining):
        seen.append(remaining)
        return 1e-3 * remaining

    model = tiny(SGMRL, point_vec(3), learning_rate=schedule)
    model.learn(int(1.5 * SAMPLES))
    assert model._n_updates == 2
    assert list(dict.fromkeys(seen)) == [1, pytest.approx(1 / 3), 0]
    assert min(seen) >= 0
    assert model.policy.optimizer.param_groups[0]["lr"] == 0


def test_progress_remaining_reaches_the_optimiser():
    model = tiny(SGMRL, point_vec(3), learning_rate=lambda remaining: 0.01 + remaining)
    model.learn(4 * SAMPLES)
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_any_optimiser():
    policy_kwargs = {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"alpha": 0.9}}
    model = tiny(SGMRL, point_vec(3), policy_kwargs=policy_kwargs)
    before = state(model)
    model.learn(1)
    assert isinstance(model.policy.optimizer, th.optim.RMSprop) and differ(before, state(model))
    assert isinstance(tiny(SGMRL, point_vec(1)).policy.optimizer, th.optim.Adam)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_critic_learns_the_returns_and_leaves_the_actor_alone(algorithm):
    policy_kwargs = {"features_extractor_class": LinearExtractor, "share_features_extractor": False}
    kwargs = {"policy_kwargs": policy_kwargs, "gamma": 0.9, "learning_rate": 0.01}
    model = tiny(algorithm, point_vec(3), baseline="critic", vf_epochs=20, **kwargs)
    losses = []
    for _ in range(3):
        rollout = rollout_of(model)
        # the values the advantages were computed with are those of the critic before this iteration's training
        phase = rollout.traces[0][0]
        with th.no_grad():
            predicted = model.policy.predict_values(th.as_tensor(phase.batch.observations[phase.batch.mask])).flatten()
        np.testing.assert_allclose(phase.values[phase.batch.mask], predicted.numpy(), rtol=1e-5)
        model.train(rollout)
        losses.append(model.logger.name_to_value["train/value_loss"])
    assert losses[-1] < losses[0] / 2
    frozen = tiny(algorithm, point_vec(3), baseline="critic", vf_epochs=3, **kwargs)
    lazy = tiny(algorithm, point_vec(3), baseline="critic", vf_epochs=1, **kwargs)
    changed = differ(state(frozen.learn(1)), state(lazy.learn(1)))
    assert changed and changed.isdisjoint(frozen.functional.adapted_names)
    assert "features_extractor.linear.weight" in frozen.functional.adapted_names


def test_without_a_critic_the_value_net_stays():
    model = tiny(SGMRL, point_vec(3))
    before = state(model)
    changed = differ(before, state(model.learn(1)))
    assert not any("value" in name for name in changed)
    assert model.logger.name_to_value.get("train/value_loss") is None


def test_episodes_are_freed_before_the_next_are_played():
    alive, at_start = [], []

    class Watch(SGMRL):
        def collect_rollouts(self, env, callback):
            at_start.append(sum(one() is not None for one in alive))
            rollout = super().collect_rollouts(env, callback)
            alive.extend(weakref.ref(phase.batch) for trace in rollout.traces for phase in trace)
            return rollout

    model = tiny(Watch, point())
    model.learn(2 * SAMPLES)
    model.learn(2 * SAMPLES, callback=CheckpointCallback(10**9, "."), reset_num_timesteps=False)
    assert len(at_start) == 4 and len(alive) == 4 * 6
    assert at_start == [0] * len(at_start)


def test_what_is_logged():
    model = tiny(SGMRL, point_vec(3, end=0.2), n_inner_steps=2, verbose=0)
    _, callback = model._setup_learn(1, None)
    callback.on_training_start(locals(), globals())
    rollout = model.collect_rollouts(model.env, callback)
    model.train(rollout)
    values = dict(model.logger.name_to_value)
    returns = [np.mean([trace[k].batch.rewards.sum(-1).mean() for trace in rollout.traces]) for k in range(3)]
    assert values["rollout/ep_rew_mean_pre"] == pytest.approx(returns[0], rel=1e-4)
    assert values["rollout/ep_rew_mean_step1"] == pytest.approx(returns[1], rel=1e-4)
    assert values["rollout/ep_rew_mean_post"] == pytest.approx(returns[2], rel=1e-4)
    assert values["rollout/adaptation_gain"] == pytest.approx(returns[2] - returns[0], rel=1e-3)
    expected = {
        "learning_rate",
        "n_updates",
        "grad_norm",
        "score_term_norm",
        "pathwise_norm",
        "score_pathwise_cosine",
        "score_weight",
        "std",
    }
    assert {f"train/{key}" for key in expected} <= values.keys()
    dumped = {}
    model.logger.dump = lambda step: dumped.update(model.logger.name_to_value, step=step)
    model.dump_logs(1)
    lengths = [int(n) for trace in rollout.traces for phase in trace for n in phase.batch.mask.sum(-1)]
    assert len(lengths) == 36 and len(model.ep_info_buffer) == 36
    assert dumped["rollout/ep_len_mean"] == pytest.approx(np.mean(lengths))
    assert dumped["rollout/ep_rew_mean"] == pytest.approx(np.mean(returns), rel=1e-4)
    assert dumped["step"] == dumped["time/total_timesteps"] == model.num_timesteps == sum(lengths)
    assert {"time/fps", "time/iterations", "time/time_elapsed"} <= dumped.keys()


@pytest.mark.parametrize(("interval", "expected"), [(1, 4), (2, 2), (None, 0)])
def test_log_interval(interval, expected):
    model = tiny(SGMRL, point_vec(3))
    dumps = []
    model.dump_logs = dumps.append
    model.learn(4 * SAMPLES, log_interval=interval)
    assert len(dumps) == expected


def test_workers_are_made_from_one_environment(capsys):
    assert tiny(SGMRL, point(), n_envs=3).env.num_envs == 3
    chosen = tiny(SGMRL, point(), verbose=1).env
    assert chosen.num_envs == 12 and "12" in capsys.readouterr().out
    # never more workers than episodes
    assert tiny(SGMRL, point(), meta_batch_size=2, n_episodes=2).env.num_envs == 4
    assert tiny(SGMRL, "Navigation2D-v0").env.num_envs == 12
    assert tiny(SGMRL, "Navigation2D-v0", n_outer_episodes=6).env.num_envs == 18


def test_both_algorithms_learn_to_adapt():
    """Two arms, one of which pays: knowing which makes the difference between one half and one."""

    class TwoArms(gym.Env):
        observation_space, action_space = spaces.Box(0, 1, (1,), np.float32), spaces.Discrete(2)

        def sample_tasks(self, n, rng):
            return list(rng.integers(0, 2, n))

        def set_task(self, task):
            self.arm = task

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.ones(1, np.float32), {}

        def step(self, action):
            return np.ones(1, np.float32), float(action == self.arm), False, False, {}

    for algorithm in ALGORITHMS:
        env = TaskDistEnv(gym.wrappers.TimeLimit(TwoArms(), 3))
        model = tiny(algorithm, env, meta_batch_size=10, n_episodes=10, learning_rate=0.03, inner_lr=1.0)
        means = []
        for _ in range(12):
            rollout = rollout_of(model)
            means.append([np.mean([trace[k].batch.rewards.mean() for trace in rollout.traces]) for k in (0, 1)])
            model.train(rollout)
        before, after = np.mean(means[-4:], axis=0)
        assert after > 0.9 and 0.35 < before < 0.65, (algorithm, means)


def test_iterations_and_phases_play_different_tasks_and_episodes():
    model = tiny(MAML, point_vec(3))
    one = rollout_of(model)
    model.train(one)
    two = rollout_of(model)
    assert len({tuple(task) for task in [*one.tasks, *two.tasks]}) == 6
    firsts = [
        tuple(row) for r in (one, two) for trace in r.traces for phase in trace for row in phase.batch.observations[:, 0]
    ]
    assert len(set(firsts)) == len(firsts) == 2 * 3 * 2 * 4
