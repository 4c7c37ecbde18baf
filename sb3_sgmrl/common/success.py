"""Success rates of adapted policies, for environments that report success."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_sgmrl.common.adaptation import AdaptiveModel, env_to_adapt_in
from sb3_sgmrl.common.evaluation import AdaptationReport, check_task_list, draw_test_tasks
from sb3_sgmrl.data import streams
from sb3_sgmrl.util.validation import check_positive, check_seed
from sb3_sgmrl.vec_env.borrowing import borrowed_workers
from sb3_sgmrl.vec_env.task_workers import ask, check_tasks, early_resets_allowed

_KEYS = ("success", "is_success")


def evaluate_success(
    model: AdaptiveModel,
    env: GymEnv | str | None = None,
    n_tasks: int = 40,
    n_steps: int = 1,
    n_episodes: int = 10,
    n_eval_episodes: int = 3,
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
) -> AdaptationReport:
    """
    Measure success rates before and after adaptation by Meta-World's protocol.

    The policy adapts to each test task with ``n_episodes`` episodes of sampled actions per inner step. Then it plays
    ``n_eval_episodes`` episodes with the most likely actions. An episode succeeds when the environment reports success at
    any step, as ``info["success"]`` or ``info["is_success"]``.

    :param model: A trained model, which does not change
    :param env: The environment to play in; the model's environment when None
    :param n_tasks: The number of tasks to draw; test tasks when the environment has some
    :param n_steps: The number of inner steps
    :param n_episodes: The number of episodes per task in each inner step
    :param n_eval_episodes: The number of episodes per task that measure each policy
    :param tasks: The tasks; None draws them
    :param seed: The seed of tasks and episodes
    :return: The report, with success rates as returns
    :raises ValueError: When a count is not positive, there are no tasks, or the environment does not match the model or
        reports no success
    """
    check_positive(n_tasks=n_tasks, n_steps=n_steps, n_episodes=n_episodes, n_eval_episodes=n_eval_episodes)
    check_seed(seed)
    if tasks is not None:
        check_task_list(tasks)
    rates = []
    with env_to_adapt_in(model, env, n_episodes) as vec_env:
        tasks = draw_test_tasks(vec_env, n_tasks, seed) if tasks is None else tasks
        check_tasks(vec_env, tasks)
        for i, task in enumerate(tasks):
            seeds = np.random.SeedSequence([seed, streams.SUCCESS, i]).generate_state(n_eval_episodes).tolist()
            policies = [model.policy, *model.adapt_stepwise(vec_env, task, n_steps, n_episodes, seed + i)]
            with borrowed_workers(vec_env):
                rates.append([_success_rate(policy, vec_env, task, seeds) for policy in policies])
    return AdaptationReport(list(tasks), np.array(rates), measure="success rate")


def _success_rate(policy: ActorCriticPolicy, env: VecEnv, task: Any, seeds: Sequence[int]) -> float:
    """Return the share of successful episodes with these seeds; worker w plays the episodes w, w + n_workers, …"""
    schedules = [[(task, seed) for seed in seeds[worker :: env.num_envs]] for worker in range(env.num_envs)]
    for worker, schedule in enumerate(schedules):
        ask(env, "set_schedule", schedule, indices=worker)
    left = np.array([len(schedule) for schedule in schedules])
    succeeded, n_successes = np.zeros(env.num_envs, dtype=bool), 0
    with early_resets_allowed(env):
        observations = env.reset()
    while left.any():
        actions, _ = policy.predict(observations, deterministic=True)  # type: ignore[arg-type]
        observations, _, dones, infos = env.step(actions)
        for worker in np.nonzero(left)[0].tolist():
            reported = [infos[worker][key] for key in _KEYS if key in infos[worker]]
            if not reported:
                raise ValueError("`env` must report success, info['success'] or info['is_success'], at every step.")
            succeeded[worker] |= bool(reported[0])
            if dones[worker]:
                n_successes += int(succeeded[worker])
                left[worker] -= 1
                succeeded[worker] = False
    return n_successes / len(seeds)
