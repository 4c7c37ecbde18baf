"""Adapting to episodes that were logged without a TaskDistEnv."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize
from toys import SmallCnn, assert_same, point_vec, tiny

from sb3_sgmrl import MAML, SGMRL
from sb3_sgmrl.common.sampling import collect_phase
from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.data.episodes import map_played
from sb3_sgmrl.data.streams import ADAPTATION
from sb3_sgmrl.vec_env.borrowing import tasks_released_afterwards

GOAL = np.array([0.8, -0.3])
SMALL = {"features_extractor_class": SmallCnn, "net_arch": [3]}
KINDS = {
    "vector": ("MlpPolicy", {}, {}),
    "ends": ("MlpPolicy", {"end": 0.3}, {}),
    "discrete": ("MlpPolicy", {"action": "discrete", "observation": "discrete"}, {}),
    "multi_discrete": ("MlpPolicy", {"action": "multi_discrete"}, {}),
    "multi_binary": ("MlpPolicy", {"action": "multi_binary"}, {}),
    "image": ("CnnPolicy", {"observation": "image"}, {"policy_kwargs": SMALL}),
    "dict": ("MultiInputPolicy", {"observation": "dict"}, {}),
}


def policy_state(policy):
    return {name: value.detach().numpy().copy() for name, value in policy.state_dict().items()}


def played(model, policy, index, task=GOAL, env=None, n=4, seed=0):
    """What :meth:`adapt` plays in the simulator in one inner step."""
    env = model.env if env is None else env
    with tasks_released_afterwards(env):
        return collect_phase(env, model.functional, [dict_of(model, policy)], [task], n, [seed, ADAPTATION, 1, index])


def dict_of(model, policy):
    named = dict(policy.named_parameters())
    return {name: named[name].detach().clone() for name in model.functional.adapted_names}


def raw_episodes(phase, unseen=lambda observations: observations, rewards=None):
    """The episodes as a robot logs them."""
    mask = phase.mask[0]
    rewards = phase.rewards if rewards is None else rewards
    found = []
    for e, length in enumerate(mask.sum(-1)):
        part = (0, e, slice(length))
        observations = phase.observations
        observations = (
            {k: unseen(v[part]) for k, v in observations.items()}
            if isinstance(observations, dict)
            else (unseen(observations[part]))
        )
        found.append((observations, phase.actions[part], rewards[part]))
    return found


def hwc(observations):
    """Images as an environment returns them, with channels last."""
    return np.moveaxis(observations, 1, -1) if observations.ndim == 4 else observations


@pytest.mark.parametrize("kind", KINDS)
def test_logged_episodes_adapt_to_the_bit_as_in_the_simulator(kind):
    policy_class, family, settings = KINDS[kind]
    model = tiny(SGMRL, point_vec(3, **family), policy_class, **settings)
    simulated = model.adapt_stepwise(task=GOAL, n_steps=3)
    batches, policy = [], model.policy
    for k in range(3):
        batches.append(PhaseBatch.from_episodes(raw_episodes(played(model, policy, k), hwc)))
        policy = model.adapt(episodes=batches)
        assert_same(policy_state(policy), policy_state(simulated[k]))
    found = model.adapt_stepwise(episodes=batches)
    assert [policy_state(p).keys() for p in found] == [policy_state(p).keys() for p in simulated]
    assert_same(policy_state(found[1]), policy_state(simulated[1]))


@pytest.mark.parametrize(("observation", "loaded"), [("vector", False), ("vector", True), ("dict", True)])
def test_raw_episodes_are_normalised_as_in_training(observation, loaded, tmp_path):
    keys = ["vector"] if observation == "dict" else None
    env = VecNormalize(point_vec(3, observation=observation), norm_obs_keys=keys)
    policy = "MultiInputPolicy" if keys else "MlpPolicy"
    model = tiny(MAML, env, policy, normalize_advantage=False, inner_lr=0.01).learn(1)
    env.training = False
    wanted = model.adapt(task=GOAL)
    phase = played(model, model.policy, 0)
    # the statistics are those of training, so the normalisation can be undone up to rounding
    raw = spy_on_raw(model)
    batch = PhaseBatch.from_episodes(raw)
    assert batch.is_raw and not phase.is_raw
    if loaded:
        model.save(tmp_path / "model")
        model = MAML.load(tmp_path / "model", device="cpu")
    assert_same(policy_state(model.adapt(episodes=batch)), policy_state(wanted))
    np.testing.assert_array_equal(model.fit_episodes([batch])[0].rewards, phase.rewards)
    assert np.abs(batch.rewards - phase.rewards).max() > 0.01


def spy_on_raw(model):
    """Play the same episodes again and keep what the workers below the VecNormalize return."""
    steps, below = [], unwrap_vec_normalize(model.env).venv
    wait, reset = below.step_wait, below.reset
    n_columns = below.num_envs
    assert n_columns == 3

    def copied(x):
        return {k: v.copy() for k, v in x.items()} if isinstance(x, dict) else x.copy()

    def kept_reset():
        observations = reset()
        steps.append((copied(observations), None, None))
        return observations

    def kept_step():
        observations, rewards, dones, infos = wait()
        steps.append((copied(observations), rewards.copy(), dones.copy()))
        return observations, rewards, dones, infos

    below.step_wait, below.reset = kept_step, kept_reset
    phase = played(model, model.policy, 0)
    below.step_wait, below.reset = wait, reset
    episodes = []
    for e in range(4):  # worker e % 3 plays episode e
        worker, start = e % n_columns, 5 * (e // n_columns)
        take = range(start, start + 5)
        row = [steps[t][0] for t in take]
        if isinstance(row[0], dict):
            observations = {k: np.stack([o[k][worker] for o in row]) for k in row[0]}
        else:
            observations = np.stack([o[worker] for o in row])
        rewards = np.array([steps[t + 1][1][worker] for t in take])
        episodes.append((observations, phase.actions[0, e], rewards))
    return episodes


def test_values_from_lists_get_the_types_of_the_spaces():
    model = tiny(SGMRL, point_vec(2))
    phase = played(model, model.policy, 0)
    lists = [tuple(np.asarray(part).tolist() for part in episode) for episode in raw_episodes(phase)]
    assert_same(policy_state(model.adapt(episodes=PhaseBatch.from_episodes(lists))), policy_state(model.adapt(task=GOAL)))


# ------------------------------------------------------------------------------------------- episodes of another policy


def many(model, action=None, n=40):
    phase = played(model, model.policy, 0, n=n)
    return phase if action is None else replace(phase, actions=action(phase))


def test_clipped_actions_are_noticed():
    model = tiny(SGMRL, point_vec(2))
    with pytest.warns(UserWarning, match=r"`episodes` look clipped: \d+\.\d% of the actions are exactly at a bound"):
        model.adapt(episodes=many(model, lambda phase: phase.actions.clip(-1, 1)))


@pytest.mark.parametrize("kind", ["vector", "discrete", "multi_discrete", "multi_binary"])
@pytest.mark.parametrize("fault", ["deterministic", "another policy"])
def test_actions_of_another_policy_are_noticed(kind, fault):
    policy_class, family, _ = KINDS[kind]
    model = tiny(SGMRL, point_vec(2, **family), policy_class)
    with th.no_grad():  # so that actions are neither uniform nor without noise
        for name, p in model.policy.named_parameters():
            if name == "action_net.bias":
                p.copy_(th.linspace(-1, 1, len(p)))
    if fault == "another policy":
        other = tiny(SGMRL, point_vec(2, **family), policy_class, seed=5)
        wrong = many(other, n=60)
    else:

        def best(phase):
            seen, _ = phase.task(0).samples()
            with th.no_grad():
                mode = model.policy.get_distribution(model.functional.to_tensor(seen)).mode().numpy()
            return map_played(lambda x: mode.reshape(x.shape).astype(x.dtype), phase.actions, phase.mask)

        wrong = many(model, best, n=60)
    with pytest.warns(UserWarning, match="`episodes` were not drawn by this policy: their actions are (less|more) likely"):
        model.adapt(episodes=wrong)


def test_own_actions_are_not_complained_about():
    """Neither with few samples nor with many; warnings are errors here."""
    for seed in range(4):
        model = tiny(SGMRL, point_vec(2, action=["box", "discrete"][seed % 2]), seed=seed)
        for n in (1, 20):
            model.adapt(episodes=played(model, model.policy, 0, n=n, seed=seed))


def test_the_second_step_needs_episodes_of_the_adapted_policy():
    model = tiny(SGMRL, point_vec(2), inner_lr=3.0)
    first, second = played(model, model.policy, 0, n=40), played(model, model.policy, 1, n=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.adapt(episodes=[first])
    with pytest.warns(UserWarning, match="policy adapted so far"):
        model.adapt(episodes=[first, second])


# --------------------------------------------------------------------------------------------------------- bad input


OBS, ACT, REW = np.zeros((3, 3), np.float32), np.zeros((3, 2), np.float32), np.zeros(3)
WRONG = [
    ([], "`episodes` must be a list of at least one"),
    (5, "`episodes` must be a list of at least one .* got int"),
    ([5], r"`episodes\[0\]` must be a tuple \(observations, actions, rewards\), got int"),
    ([(OBS, ACT)], r"`episodes\[0\]` must be a tuple .* got 2 parts"),
    ([(OBS, ACT, REW), (OBS, ACT[:2], REW)], r"`episodes\[1\]` must have actions for each of its 3 rewards, got 2\."),
    ([(np.zeros((4, 3)), ACT, REW)], "got 4: leave out the observation after the last action"),
    ([(OBS[:0], ACT[:0], REW[:0])], "rewards of shape .* for at least one step"),
    ([(OBS, ACT, REW[:, None])], r"rewards of shape \(n_steps,\)"),
    ([(OBS * np.nan, ACT, REW)], r"`episodes\[0\]` must have observations that are finite, got NaN or infinity at step 0"),
    ([(np.array([[0, 0, 0], [0, 0, np.nan], [0, 0, 0]]), ACT, REW)], r"NaN or infinity at step 1\."),
    ([(OBS, ACT, np.array([0, 0, np.inf]))], "rewards that are finite, got NaN or infinity at step 2"),
    ([(OBS, ACT.astype(str), REW)], "actions that are numbers"),
    ([(OBS, ACT.astype(complex), REW)], "actions that are numbers"),
    ([(OBS, ACT, [None] * 3)], "rewards that are numbers"),
    ([([[1], [1, 2], [3]], ACT, REW)], "observations of one shape in all steps"),
    ([(OBS, ACT, REW), (OBS[:, :2], ACT, REW)], r"`episodes\[1\]` must have observations of shape \(3,\) at a step"),
    ([(OBS, ACT, REW), ({"a": OBS}, ACT, REW)], r"`episodes\[1\]` must have observations, actions, rewards as"),
    ([({"a": OBS}, ACT, REW), ({"b": OBS}, ACT, REW)], r"must have observations/a, actions, rewards as `episodes\[0\]`"),
]


@pytest.mark.parametrize(("episodes", "complaint"), WRONG)
def test_episodes_that_are_none(episodes, complaint):
    with pytest.raises(ValueError, match=complaint):
        PhaseBatch.from_episodes(episodes)


def test_episodes_of_other_spaces():
    model = tiny(SGMRL, point_vec(2))
    for wrong, complaint in (
        ([(OBS[:, :2], ACT, REW)], r"must hold observations of Box\(.*\), got shape \(2,\)"),
        ([({"vector": OBS}, ACT, REW)], r"must hold observations of Box\(.*\), got shapes"),
        ([(OBS, ACT[:, :1], REW)], r"must hold actions of Box\(.*\), got shape \(1,\)"),
    ):
        with pytest.raises(ValueError, match=complaint):
            model.adapt(episodes=PhaseBatch.from_episodes(wrong))
    model = tiny(SGMRL, point_vec(2, action="discrete", observation="image"), "CnnPolicy", policy_kwargs=SMALL)
    images, categories = np.zeros((3, 36, 36, 1), np.uint8), np.zeros(3, int)
    model.adapt(episodes=PhaseBatch.from_episodes([(images, categories, REW)]))
    for wrong, complaint in (
        ((images / 255.0, categories, REW), "observations of Box.* got float64 instead of integers"),
        ((images.astype(int) - 1, categories, REW), "observations of Box.* got -1 to -1"),
        ((images, categories + 4, REW), r"actions of Discrete\(4\), counted from 0, got 4 to 4"),
        ((images, categories + 0.5, REW), r"actions of Discrete\(4\), got float64"),
    ):
        with pytest.raises(ValueError, match=complaint):
            model.adapt(episodes=PhaseBatch.from_episodes([wrong]))
    for wrong in ([], 5, [5], [(OBS, ACT, REW)]):
        with pytest.raises(ValueError, match="`episodes` must be a PhaseBatch of one task"):
            model.adapt(episodes=wrong)


def test_episodes_that_do_not_fit_the_statistics():
    model = tiny(MAML, VecNormalize(point_vec(2)))
    with pytest.raises(ValueError, match=r"observations of shape \(3,\), as the model's VecNormalize, got shape \(2,\)"):
        model.adapt(episodes=PhaseBatch.from_episodes([(OBS[:, :2], ACT, REW)]))
    model = tiny(MAML, VecNormalize(point_vec(2, observation="dict"), norm_obs_keys=["vector"]), "MultiInputPolicy")
    for wrong in ({"category": OBS}, OBS):
        with pytest.raises(ValueError, match=r"observations\['vector'\] of shape \(3,\).* got none"):
            model.adapt(episodes=PhaseBatch.from_episodes([(wrong, ACT, REW)]))
