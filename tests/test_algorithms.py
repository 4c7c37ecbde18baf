"""Meta-iterations of SGMRL and MAML."""

import weakref
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from torch import nn
from toys import (
    ACTIONS,
    ALGORITHMS,
    HORIZON,
    OBSERVATIONS,
    LinearExtractor,
    PointEnv,
    SmallCnn,
    assert_same,
    differ,
    point,
    point_vec,
    rollout_of,
    state,
    tiny,
)

from sb3_sgmrl import EMAML, MAML, SGMRL, TaskDistEnv
from sb3_sgmrl.gradient.inner import WeightedSamples, adapt
from sb3_sgmrl.gradient.objective import InnerStep
from sb3_sgmrl.score_terms.control_variates import CONTROL_VARIATES

# samples of a meta-iteration of ``tiny``: two phases of three tasks of four episodes
SAMPLES = 2 * 3 * 4 * HORIZON


def vector(parameters):
    return th.cat([value.flatten() for value in parameters.values()])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
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


@pytest.mark.parametrize("algorithm", ALGORITHMS)
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


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_phases_are_played_with_the_adapted_parameters(algorithm):
    """Each phase by the parameters that an inner step on the one before it gives."""
    model = tiny(algorithm, point_vec(3), n_inner_steps=2, n_episodes=3, n_outer_episodes=5, baseline="none")
    for trace in rollout_of(model).traces:
        assert [phase.batch.n_episodes for phase in trace] == [3, 3, 5]
        th.testing.assert_close(vector(trace[0].parameters), vector(model.functional.parameters()), rtol=0, atol=0)
        for phase, following in pairwise(trace):
            samples = WeightedSamples.make(model.functional, phase.batch, phase.weighted.weights)
            adapted = adapt(model.functional, phase.parameters, samples, model.inner_lr)
            th.testing.assert_close(vector(following.parameters), vector(adapted), rtol=0, atol=0)
            # the actions were drawn from them: their likelihood is what such a policy gives on average
            assert not th.equal(vector(following.parameters), vector(phase.parameters))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_optimiser_follows_the_meta_gradient(algorithm):
    policy_kwargs = {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {}}
    model = tiny(algorithm, point_vec(3), learning_rate=0.5, max_grad_norm=None, policy_kwargs=policy_kwargs)
    before = model.functional.parameters()
    rollout = rollout_of(model)
    gradient = model.meta_gradient(rollout).gradient
    model.train(rollout)
    after = model.functional.parameters()
    for name in before:
        th.testing.assert_close(after[name], before[name] + 0.5 * gradient[name])
    clipped = tiny(algorithm, point_vec(3), learning_rate=0.5, max_grad_norm=1e-3, policy_kwargs=policy_kwargs)
    clipped.train(rollout_of(clipped))
    difference = vector(clipped.functional.parameters()) - vector(before)
    assert float(difference.norm()) == pytest.approx(0.5e-3, rel=1e-2)
    th.testing.assert_close(difference / difference.norm(), vector(gradient) / vector(gradient).norm(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("variate", CONTROL_VARIATES)
def test_every_form_of_the_score_term_trains(variate):
    model = tiny(SGMRL, point_vec(3, end=0.2), control_variate=variate, score_coef=1.0, n_inner_steps=2)
    before = state(model)
    estimates = []
    for _ in range(2):
        rollout = rollout_of(model)
        estimates.append(model.meta_gradient(rollout))
        model.train(rollout)
    assert all(float(vector(estimate.score_term).norm()) > 0 for estimate in estimates)
    assert differ(before, state(model))


class RareReward(PointEnv):
    """A reward for getting past the goal, which in most tasks no episode does."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(observation[0] > self.goal[0] + 0.3), *rest


@pytest.mark.parametrize("variate", CONTROL_VARIATES)
def test_tasks_without_any_reward_say_nothing(variate):
    env = make_vec_env(lambda: TaskDistEnv(gym.wrappers.TimeLimit(RareReward(), HORIZON)), 3)
    model = tiny(SGMRL, env, control_variate=variate, score_coef=1.0, meta_batch_size=20)
    rewarded = set()
    for _ in range(2):
        rollout = rollout_of(model)
        rewarded |= {bool(trace[-1].batch.rewards.any()) for trace in rollout.traces}
        norms = model.meta_gradient(rollout).norms()
        assert norms["score_term_norm"] < 1e4
        model.train(rollout)
    assert rewarded == {False, True}


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


def test_task_regression_remembers_iterations_after_their_gradient():
    model = tiny(SGMRL, point_vec(3), control_variate="task_regression")
    rollout = rollout_of(model)
    model.meta_gradient(rollout)
    assert model._task_regression._targets == []
    model.train(rollout)
    expected = [trace[-1].batch.returns(model.gamma).mean() for trace in rollout.traces]
    np.testing.assert_allclose(model._task_regression._targets, expected)
    np.testing.assert_allclose(np.stack(model._task_regression._features), np.stack(rollout.tasks))
    # and so predict what the coefficients are the deviation from
    following = rollout_of(model)
    choose = model.score_coefficients(following)
    predicted = model._task_regression.predict(np.stack(following.tasks))
    for i, trace in enumerate(following.traces):
        value = (trace[-1].batch.returns(model.gamma).mean() - predicted[i]) / trace[-1].weighted.scale
        samples = WeightedSamples.make(model.functional, trace[0].batch, trace[0].weighted.weights)
        coefficients = choose(InnerStep(i, 0, trace[0], trace[1].parameters, samples, samples.weights))
        np.testing.assert_allclose(coefficients.numpy(), value, rtol=1e-4)


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


def test_sgmrl_without_the_score_term_is_maml():
    maml, sgmrl = tiny(MAML, point_vec(3)).learn(2 * SAMPLES), tiny(SGMRL, point_vec(3), score_coef=0.0).learn(2 * SAMPLES)
    assert_same(state(maml), state(sgmrl))
    assert differ(state(maml), state(tiny(SGMRL, point_vec(3), score_coef=1.0).learn(2 * SAMPLES)))


@pytest.mark.parametrize("n_inner_steps", [1, 2])
def test_score_terms_are_weighted_by_their_past(n_inner_steps):
    """Without a past the estimate is MAML's; then each inner step and parameter has the weight of its own."""
    model = tiny(SGMRL, point_vec(3, end=0.2), n_inner_steps=n_inner_steps)
    rollout = rollout_of(model)
    first = model.meta_gradient(rollout)
    assert len(first.unweighted) == n_inner_steps
    assert not any(value.any() for value in first.score_term.values())
    for _ in range(4):
        model.train(rollout)
    weights = model.objective.score_coef
    assert len(weights) == n_inner_steps and set(weights[0]) == set(model.functional.parameters())
    # the same episodes each time leave no noise but that of the parameters' drift
    assert all(0 < weight <= 1 for weight in weights[0].values())
    estimate = model.meta_gradient(rollout)
    for name, value in estimate.score_term.items():
        th.testing.assert_close(value, weights[0][name] * estimate.unweighted[0][name])


def test_weights_of_the_score_term_go_on_after_loading(tmp_path):
    model = tiny(SGMRL, point_vec(3)).learn(4 * SAMPLES)
    model.save(tmp_path / "model")
    loaded = SGMRL.load(tmp_path / "model", env=point_vec(3))
    assert loaded.objective.score_coef == model.objective.score_coef and loaded.objective.score_coef[0]
    together = [state(m.learn(SAMPLES, reset_num_timesteps=False)) for m in (model, loaded)]
    assert_same(*together)


@pytest.mark.parametrize("n_inner_steps", [1, 2])
def test_emaml_adds_standardised_rewards_times_the_mean_log_likelihood_of_the_first_batch(n_inner_steps):
    model = tiny(EMAML, point_vec(3, end=0.3), n_inner_steps=n_inner_steps)
    rollout = rollout_of(model)
    batches = [(trace[0].batch, trace[-1].batch) for trace in rollout.traces]
    rewards = [after.rewards[after.mask] for _, after in batches]
    together = np.concatenate(rewards)
    standardised = [float(((r - together.mean()) / together.std()).mean()) for r in rewards]
    parameters = {name: value.detach().requires_grad_() for name, value in model.functional.parameters().items()}
    total = 0.0
    for (before, _), reward in zip(batches, standardised, strict=True):
        observations, actions = map(th.as_tensor, before.samples())
        total = total + reward * model.functional.log_prob(parameters, observations, actions).mean() / len(batches)
    expected = vector(dict(zip(parameters, th.autograd.grad(total, list(parameters.values())), strict=True)))
    estimate = model.meta_gradient(rollout)
    pathwise = vector(MAML.meta_gradient(tiny(MAML, point_vec(3, end=0.3), n_inner_steps=n_inner_steps), rollout).gradient)
    score = vector(estimate.score_term)
    assert float((score - expected).norm()) < 1e-5 * float(expected.norm())
    assert float((vector(estimate.gradient) - pathwise - score).norm()) < 1e-5 * float(pathwise.norm())
    assert float(expected.norm()) > 1e-3 * float(pathwise.norm())


@pytest.mark.filterwarnings("ignore:`first_order=True`")
@pytest.mark.parametrize(
    "settings", [{"first_order": True}, {"inner_surrogate": "lvc"}, {"inner_surrogate": "dice"}, {"score_coef": 0.5}]
)
def test_settings_of_the_gradient_reach_it(settings):
    algorithm = SGMRL if "score_coef" in settings else MAML
    usual, other = tiny(algorithm, point_vec(3)), tiny(algorithm, point_vec(3), **settings)
    gradients = [vector(model.meta_gradient(rollout_of(model)).gradient) for model in (usual, other)]
    assert float((gradients[0] - gradients[1]).norm()) > 1e-3 * float(gradients[0].norm())


@pytest.mark.parametrize(
    "settings",
    [
        {"gamma": 0.5},
        {"gae_lambda": 0.5},
        {"baseline": "none"},
        {"baseline": "critic"},
        {"normalize_advantage": False},
        {"discount_from": "episode"},
        {"time_reduction": "sum"},
        {"inner_lr": 0.01},
        {"outer_advantage": {"normalize": False}},
        {"outer_advantage": {"baseline": "none", "gae_lambda": 1.0}},
    ],
    ids=str,
)
def test_settings_of_the_advantages_reach_the_phases(settings):
    usual, other = tiny(MAML, point_vec(3)), tiny(MAML, point_vec(3), **settings)
    one, two = rollout_of(usual).traces[0], rollout_of(other).traces[0]
    inner = not {"inner_lr", "outer_advantage"} & settings.keys()
    assert (not np.allclose(one[0].weighted.weights, two[0].weighted.weights)) == inner
    assert not np.allclose(one[1].weighted.weights, two[1].weighted.weights)
    if "normalize_advantage" not in settings and "outer_advantage" not in settings:
        for phase in two:
            played = phase.weighted.weights[phase.batch.mask]
            assert played.mean() == pytest.approx(0, abs=1e-6)


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
    kwargs = {"policy_kwargs": {"features_extractor_class": LinearExtractor}, "gamma": 0.9, "learning_rate": 0.01}
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


def test_policies_start_with_glorot_weights_unless_sb3_is_asked():
    ours = tiny(MAML, point_vec(1), policy_kwargs={"net_arch": [100, 100]}).policy
    for layer, (n_in, n_out) in ((ours.mlp_extractor.policy_net[2], (100, 100)), (ours.action_net, (100, 1))):
        bound = (6 / (n_in + n_out)) ** 0.5
        assert 0.8 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert not layer.bias.any()
    for ortho_init in (True, False):
        given = tiny(MAML, point_vec(1), policy_kwargs={"ortho_init": ortho_init}).policy
        small = float(given.action_net.weight.detach().norm()) < 0.02
        assert small == ortho_init and bool(given.action_net.bias.any()) != ortho_init


def test_a_features_extractor_keeps_the_weights_it_came_with():
    class Constant(nn.Module):
        features_dim = 3

        def __init__(self, observation_space):
            super().__init__()
            self.linear = nn.Linear(int(np.prod(observation_space.shape)), 3)
            nn.init.constant_(self.linear.weight, 7.0)

        def forward(self, observations):
            return self.linear(observations.flatten(1))

    policy = tiny(MAML, point_vec(1), policy_kwargs={"features_extractor_class": Constant}).policy
    assert (policy.features_extractor.linear.weight == 7).all()
