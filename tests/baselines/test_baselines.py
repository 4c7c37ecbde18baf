"""The baselines: trained by SB3's classes as they are, and evaluated like a meta-learner."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize
from toys import ACTIONS, HORIZON, assert_same, point, point_vec, state

from sb3_sgmrl import evaluate_adaptation
from sb3_sgmrl.baselines import (
    RL2,
    Baseline,
    FromScratch,
    MultiTaskPPO,
    MultiTaskTRPO,
    OraclePPO,
    RandomActions,
    StandingStill,
)
from sb3_sgmrl.common.evaluation import AdaptationReport
from sb3_sgmrl.data.streams import EVALUATION

LEARNERS = [MultiTaskPPO, MultiTaskTRPO, OraclePPO, FromScratch, RL2]


def make(cls: type, env: Any = None, **kwargs: Any) -> Any:
    env = point() if env is None else env
    if not issubclass(cls, (MultiTaskPPO, RL2)):
        return cls(env, n_episodes=2)
    recurrent = {"policy_kwargs": {"net_arch": [4], "lstm_hidden_size": 4}}
    settings = {
        "n_envs": 2,
        "seed": 0,
        "n_episodes": 2,
        "policy_kwargs": {"net_arch": [4]},
        **(recurrent if cls is RL2 else {}),
    }
    if cls is not MultiTaskTRPO:
        settings["n_epochs"] = 1
    return cls("MlpLstmPolicy" if cls is RL2 else "MlpPolicy", env, **{**settings, **kwargs})


def evaluate(baseline: Baseline, **kwargs: Any) -> AdaptationReport:
    return evaluate_adaptation(baseline, **{"n_tasks": 3, "n_steps": 2, **kwargs})


@pytest.mark.parametrize("cls", [*LEARNERS, RandomActions])
@pytest.mark.parametrize("env_id", ["Navigation2D-v0", "BernoulliBandit-v0", "TabularMDP-v0"])
def test_it_takes_the_families_of_the_package(cls: type, env_id: str) -> None:
    baseline = make(cls, env_id).learn(1)
    assert np.isfinite(evaluate(baseline, n_steps=1).returns).all()


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", ["discrete", "dict", "image"])
def test_fine_tuning_takes_every_space(observation: str, action: str) -> None:
    policy = {"discrete": "MlpPolicy", "dict": "MultiInputPolicy", "image": "CnnPolicy"}[observation]
    baseline = MultiTaskPPO(policy, point(observation=observation, action=action), n_episodes=1, n_envs=1, seed=0)
    assert np.isfinite(evaluate(baseline, n_steps=1, n_tasks=1).returns).all()


@pytest.mark.parametrize("cls", [*LEARNERS, RandomActions, StandingStill])
def test_it_learns_and_is_evaluated_without_a_change(cls: type) -> None:
    baseline = make(cls).learn(1)
    before = state(baseline.model) if cls in LEARNERS else {}
    report = evaluate(baseline)
    assert report.returns.shape == (3, 3)
    np.testing.assert_array_equal(report.returns, evaluate(baseline).returns)
    if cls in LEARNERS:
        assert_same(state(baseline.model), before)
        trains = cls is not FromScratch
        assert (baseline.num_timesteps > 0) == trains


@pytest.mark.parametrize("cls", [MultiTaskPPO, OraclePPO])
def test_results_do_not_depend_on_the_workers(cls: type) -> None:
    baseline = make(cls)
    np.testing.assert_allclose(evaluate(baseline, env=point_vec(1)).returns, evaluate(baseline, env=point_vec(5)).returns)


def test_steps_of_adaptation_are_counted_alike() -> None:
    baseline, counted = make(MultiTaskPPO), []
    with baseline.workers(None, 3, 4) as env:
        tasks = [np.array([0.1, 0.2])] * 3
        baseline.adaptation_returns(env, tasks, 2, 4, [0, EVALUATION, 1], counted.append)
    assert sum(counted) == 3 * 4 * (2 + 1)


def test_fine_tuning_is_a_call_of_train_on_the_episodes_that_were_played(monkeypatch: pytest.MonkeyPatch) -> None:
    baseline, buffers, starts = make(MultiTaskPPO, learning_rate=0.1), [], []
    train = PPO.train

    def record(model: PPO) -> None:
        buffers.append(model.rollout_buffer)
        starts.append(state(model))
        train(model)

    monkeypatch.setattr(PPO, "train", record)
    report = evaluate(baseline, n_steps=1)
    assert len(buffers) == 3 and all(buffer.buffer_size == 2 * HORIZON for buffer in buffers)
    for start in starts:  # no task begins where another one ended
        assert_same(start, state(baseline.model))
    rewards = [buffer.rewards.copy() for buffer in buffers]
    for i, buffer in enumerate(buffers):
        assert np.flatnonzero(buffer.episode_starts).tolist() == [0, HORIZON]
        gamma, lambda_, values = baseline.model.gamma, baseline.model.gae_lambda, buffer.values.ravel()
        # after the time limit the value is that of the last observation, which SB3 adds to the reward
        own = rewards[i].ravel().copy()
        own[HORIZON - 1 :: HORIZON] -= gamma * values[HORIZON - 1 :: HORIZON]
        assert own.sum() / 2 == pytest.approx(report.returns[i, 0], rel=1e-5)
        advantages = np.zeros(2 * HORIZON)
        for t in reversed(range(2 * HORIZON)):
            is_last = t % HORIZON == HORIZON - 1
            delta = own[t] + gamma * values[t if is_last else t + 1] - values[t]
            advantages[t] = delta + (0.0 if is_last else gamma * lambda_ * advantages[t + 1])
        np.testing.assert_allclose(buffer.advantages.ravel(), advantages, atol=1e-5)


def test_each_task_is_fine_tuned_alone() -> None:
    baseline = make(MultiTaskPPO, learning_rate=0.1)
    tasks = [np.array([0.9, 0.9]), np.array([-0.9, 0.9])]
    together = evaluate(baseline, tasks=tasks).returns
    assert (together[:, 1] != evaluate(make(MultiTaskPPO, learning_rate=1e-9), tasks=tasks).returns[:, 1]).all()
    np.testing.assert_allclose(evaluate(baseline, tasks=tasks[:1]).returns[0, 0], together[0, 0])
    slow = make(MultiTaskPPO, learning_rate=0.1, fine_tuning_rate=1e-9)
    np.testing.assert_allclose(
        evaluate(slow, tasks=tasks).returns, evaluate(make(MultiTaskPPO, learning_rate=1e-9), tasks=tasks).returns
    )
    assert slow.model.lr_schedule(1.0) == 0.1


def test_training_resumes_exactly(tmp_path) -> None:
    whole = make(MultiTaskPPO).learn(40)
    first = make(MultiTaskPPO).learn(20)
    assert first.num_timesteps == 20
    first.save(tmp_path / "model")
    resumed = make(MultiTaskPPO)
    resumed.restore(tmp_path / "model")
    resumed.learn(20, reset_num_timesteps=False)
    assert_same(state(whole.model), state(resumed.model))
    (tmp_path / "model.zip").write_bytes(b"?")
    with pytest.raises(ValueError, match="must be a file of this baseline with the same network"):
        resumed.restore(tmp_path / "model")


def test_the_memory_is_reset_between_trials_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    baseline, starts = make(RL2, n_trials=2), []
    predict = baseline.model.predict

    def record(observations: np.ndarray, memory: Any, episode_start: np.ndarray) -> Any:
        starts.append(episode_start.copy())
        return predict(observations, memory, episode_start)

    monkeypatch.setattr(baseline.model, "predict", record)
    evaluate(baseline, env=point_vec(2), n_tasks=2, n_steps=1, n_episodes=2)
    trial = (1 * 2 + 1) * HORIZON
    assert [step for step, now in enumerate(starts) if now.any()] == [0, trial]
    assert len(starts) == 2 * trial  # four trials on two workers


def test_a_column_of_rl2_is_the_episode_after_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    returns = np.arange(2 * 2 * 7).reshape(2, 2, 7)
    monkeypatch.setattr(RL2, "trial_returns", lambda *_: returns)
    report = evaluate(make(RL2, n_trials=2), n_tasks=2, n_steps=2, n_episodes=3)
    np.testing.assert_array_equal(report.returns, returns[:, :, [0, 3, 6]].mean(1))


def test_standing_still_returns_what_the_distance_says() -> None:
    goals = [np.array([0.3, 0.4]), np.array([-0.3, 0.0])]
    report = evaluate_adaptation(StandingStill("Navigation2D-v0"), tasks=goals, n_episodes=1)
    np.testing.assert_allclose(report.returns, [[-50.0] * 2, [-30.0] * 2], rtol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="must be recurrent for RL², such as 'MlpLstmPolicy', got 'MlpPolicy'"):
        RL2("MlpPolicy", point())
    with pytest.raises(ValueError, match="must have continuous actions for a policy that stands still, got Discrete"):
        StandingStill(point(action="discrete"))
    with pytest.raises(ValueError, match="must not be in a VecNormalize for a baseline"):
        make(MultiTaskPPO, VecNormalize(point_vec(2)))
    with pytest.raises(ValueError, match="PPO refuses its arguments"):
        make(MultiTaskPPO, clip_rang=0.1)


@pytest.mark.slow
def test_the_oracle_learns_what_the_task_says_and_fine_tuning_helps() -> None:
    settings = {"n_envs": 20, "learning_rate": 3e-3, "policy_kwargs": {"net_arch": [32]}, "n_episodes": 20}
    standing = evaluate(StandingStill(point(), n_episodes=20), n_tasks=20, n_steps=1).mean_returns[0]
    oracle = evaluate(make(OraclePPO, n_epochs=5, **settings).learn(20_000), n_tasks=20, n_steps=1).mean_returns
    assert oracle.min() > standing + 0.5
    multi = make(MultiTaskPPO, fine_tuning_rate=1e-2, **settings).learn(5_000)
    before, *_, after = evaluate(multi, n_tasks=20, n_steps=6).mean_returns
    assert after > before + 0.3
    assert oracle[0] > before + 0.5
