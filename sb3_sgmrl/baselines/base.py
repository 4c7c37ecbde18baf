"""What baselines share: how they are trained, saved and evaluated beside the meta-learners."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_sgmrl.baselines.trials import ENDED
from sb3_sgmrl.common.evaluation import Count
from sb3_sgmrl.common.saving import SavePath
from sb3_sgmrl.util.files import replace_when_complete, with_zip_suffix
from sb3_sgmrl.util.threads import single_threaded
from sb3_sgmrl.util.validation import check_positive
from sb3_sgmrl.vec_env.engines import as_task_vec_env, close_task_env, make_task_env
from sb3_sgmrl.vec_env.task_workers import ask, check_task_workers, known_horizon

SelfBaseline = TypeVar("SelfBaseline", bound="Baseline")
# called with the observations of all workers and whether an episode of a worker begins; returns their actions
Act = Callable[[Any, np.ndarray], np.ndarray]


class Baseline(ABC):
    """
    A method to compare meta-learners with. :func:`~sb3_sgmrl.evaluate_adaptation` accepts it.

    :param env: The task family, as for the algorithms
    :param n_episodes: The number of episodes per task in each step of adaptation
    :raises ValueError: When ``env`` has no tasks or is in a VecNormalize, or a count is not positive
    """

    num_timesteps = 0

    def __init__(self, env: GymEnv | str, n_episodes: int = 20) -> None:
        check_positive(n_episodes=n_episodes)
        self.env = env
        self.n_episodes = n_episodes

    def learn(
        self: SelfBaseline,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
    ) -> SelfBaseline:
        """
        Train, if the baseline learns at all.

        :param total_timesteps: The number of environment steps
        :param callback: SB3 callbacks
        :param reset_num_timesteps: Whether to count timesteps from zero
        :return: The baseline
        """
        return self

    def set_logger(self, logger: Logger) -> None:
        """
        Log the training elsewhere; a baseline that learns nothing logs nothing.

        :param logger: The logger
        """
        return

    def save(self, path: SavePath) -> None:
        """
        Save what was learned as data; a baseline that learns nothing saves nothing.

        :param path: The file
        """
        return

    def restore(self, path: SavePath) -> None:
        """
        Restore what :meth:`save` saved. No code of the file runs.

        :param path: The file
        """
        return

    def wrapped(self, env: VecEnv) -> VecEnv:
        """
        Wrap workers as the policy needs them.

        :param env: The workers, which take tasks
        :return: The wrapped workers
        """
        return env

    def workers(self, env: GymEnv | str | None, n_tasks: int, n_episodes: int) -> AbstractContextManager[VecEnv]:
        """
        Provide workers to evaluate in, for a ``with`` statement, and close those made for it at its end.

        :param env: The environment; that of the constructor when None
        :param n_tasks: The number of tasks
        :param n_episodes: The number of episodes of a task that can run in parallel
        :return: The workers
        :raises ValueError: When ``env`` has no tasks or is in a VecNormalize
        """
        return self._workers(self.env if env is None else env, n_tasks * n_episodes)

    @contextmanager
    def _workers(self, env: GymEnv | str, n_columns: int) -> Iterator[VecEnv]:
        vec_env = make_task_env(env, n_columns)
        try:
            _check_not_normalized(vec_env)
            yield BaseAlgorithm._wrap_env(self.wrapped(vec_env), monitor_wrapper=False)  # images as SB3's policies take them
        finally:
            close_task_env(vec_env, env)

    @abstractmethod
    def adaptation_returns(
        self, env: VecEnv, tasks: Sequence[Any], n_steps: int, n_episodes: int, entropy: Sequence[int], count: Count
    ) -> np.ndarray:
        """
        Play and adapt, with as many episodes as a meta-learner.

        :param env: The workers, from :meth:`workers`
        :param tasks: The tasks
        :param n_steps: The number of steps of adaptation
        :param n_episodes: The number of episodes per task and step
        :param entropy: The entropy that names the random stream
        :param count: A function to call with the number of episodes that were played
        :return: The mean returns before and after each step, shape (n_tasks, n_steps + 1)
        """


def _check_not_normalized(env: VecEnv) -> None:
    if unwrap_vec_normalize(env) is not None:
        raise ValueError("`env` must not be in a VecNormalize for a baseline, whose runs are compared by original numbers.")


class SeededRollouts(BaseCallback):
    """
    Begin every rollout of an SB3 algorithm with new episodes and random numbers of its own.

    Training then resumes exactly, because a rollout depends only on the parameters and on the number of steps before it.

    :param seed: The seed of the run
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        model: Any = self.model
        seed = int(np.random.SeedSequence([self.seed, model.num_timesteps]).generate_state(1)[0] // 2)
        set_random_seed(seed)
        model.env.seed(seed)
        model._last_obs = model.env.reset()
        model._last_episode_starts = np.ones(model.n_envs, dtype=bool)
        model.ep_info_buffer.clear()  # the logged return is that of this rollout


class SB3Baseline(Baseline):
    """
    A baseline that trains with an algorithm of SB3 or sb3-contrib as it is.

    :param algorithm: The class of the algorithm
    :param policy: The policy
    :param env: The task family
    :param n_episodes: The number of episodes per task in each step of adaptation
    :param n_envs: The number of workers that train
    :param seed: The seed
    :param kwargs: The arguments of the algorithm; by default a rollout is one episode of each worker
    :raises ValueError: When ``env`` has no tasks or no known time limit, or an argument is outside its range
    """

    def __init__(
        self,
        algorithm: type[OnPolicyAlgorithm],
        policy: Any,
        env: GymEnv | str,
        n_episodes: int = 20,
        n_envs: int = 40,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(env, n_episodes)
        check_positive(n_envs=n_envs)
        self.seed = seed
        vec_env = as_task_vec_env(env, None if isinstance(env, VecEnv) else n_envs)
        check_task_workers(vec_env)
        _check_not_normalized(vec_env)
        n_steps = self.steps_of_rollout(known_horizon(vec_env))
        defaults = {"n_steps": n_steps, "batch_size": _batch_size(kwargs.get("n_steps", n_steps) * vec_env.num_envs)}
        try:
            self.model = algorithm(policy, self.wrapped(vec_env), seed=seed, **{**defaults, **kwargs})
        except (AssertionError, TypeError) as error:
            raise ValueError(f"{algorithm.__name__} refuses its arguments: {error}") from error

    def steps_of_rollout(self, horizon: int) -> int:
        """
        Choose the number of steps of a worker in a rollout.

        :param horizon: The number of steps of an episode
        :return: The number of steps
        """
        return horizon

    @property
    def num_timesteps(self) -> int:  # type: ignore[override]
        """The number of environment steps of training."""
        return self.model.num_timesteps

    def set_logger(self, logger: Logger) -> None:
        """
        Log the training elsewhere.

        :param logger: The logger
        """
        self.model.set_logger(logger)

    def learn(
        self: SelfBaseline,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
    ) -> SelfBaseline:
        """
        Train on all tasks of the family: each episode, or each trial, draws one.

        :param total_timesteps: The number of environment steps; the last rollout is always complete
        :param callback: SB3 callbacks
        :param reset_num_timesteps: Whether to count timesteps from zero
        :return: The baseline
        """
        assert isinstance(self, SB3Baseline)
        given: list[Any] = [] if callback is None else callback if isinstance(callback, list) else [callback]
        given = [one if isinstance(one, BaseCallback) else ConvertCallback(one) for one in given]
        callbacks: Any = [SeededRollouts(self.seed), *given]
        with single_threaded():  # for networks as small as these, threads of torch cost more than they gain
            self.model.learn(total_timesteps, callbacks, reset_num_timesteps=reset_num_timesteps)
        ask(self.model.env, "set_schedule", None)  # type: ignore[arg-type]
        return self

    def save(self, path: SavePath) -> None:
        """
        Save parameters, optimiser and number of steps as data.

        :param path: The file
        """
        model = self.model
        counts = {"num_timesteps": model.num_timesteps, "n_updates": model._n_updates}
        state = {"policy": model.policy.state_dict(), "optimizer": model.policy.optimizer.state_dict(), **counts}
        with replace_when_complete(with_zip_suffix(path)) as file:  # type: ignore[arg-type]
            th.save(state, file)

    def restore(self, path: SavePath) -> None:
        """
        Restore what :meth:`save` saved. No code of the file runs.

        :param path: The file
        :raises ValueError: When the file is damaged or belongs to another network
        """
        path = with_zip_suffix(path)  # type: ignore[arg-type]
        try:
            state = th.load(path, map_location=self.model.device, weights_only=True)
            self.model.policy.load_state_dict(state["policy"])
            self.model.policy.optimizer.load_state_dict(state["optimizer"])
            self.model.num_timesteps, self.model._n_updates = state["num_timesteps"], state["n_updates"]
        except FileNotFoundError:
            raise
        except Exception as error:  # torch raises anything for damaged files
            text = " ".join(str(error).split()).split(". ")[0][:200].rstrip(".")
            raise ValueError(f"`path` {path} must be a file of this baseline with the same network: {text}.") from error


def _batch_size(n_samples: int) -> int:
    """Return an eighth of the samples, or the next larger part of two or more without a rest."""
    parts = next((parts for parts in range(8, 1, -1) if n_samples % parts == 0 and n_samples > parts), 1)
    return max(2, n_samples // parts)


def play_scheduled(env: VecEnv, schedules: Sequence[Sequence[tuple[Any, int]]], act: Act, count: Count) -> list[list[float]]:
    """
    Play the scheduled episodes of every worker.

    :param env: The workers, which take tasks
    :param schedules: The task and seed of each episode of each worker
    :param act: The function that acts
    :param count: A function to call with the number of episodes that ended in a step
    :return: The returns of the episodes of each worker
    """
    for worker, schedule in enumerate(schedules):
        ask(env, "set_schedule", list(schedule), indices=worker)
    return play(env, [len(schedule) for schedule in schedules], act, count)


def play(env: VecEnv, n_episodes: Sequence[int], act: Act, count: Count) -> list[list[float]]:
    """
    Play until every worker has ended its episodes.

    :param env: The workers; those that have no further episodes are idle
    :param n_episodes: The number of episodes of each worker
    :param act: The function that acts
    :param count: A function to call with the number of episodes that ended in a step
    :return: The returns of the episodes of each worker
    """
    returns: list[list[float]] = [[] for _ in n_episodes]
    sums, left = np.zeros(env.num_envs), np.array(n_episodes)
    observations, starts = env.reset(), np.ones(env.num_envs, dtype=bool)
    while left.any():
        observations, rewards, dones, infos = env.step(act(observations, starts))
        sums += rewards
        # a trial goes on after the end of an episode, which only its info shows
        starts = dones | [info.get(ENDED, False) for info in infos]
        ended = np.flatnonzero(starts & (left > 0))
        for worker in ended:
            episode = infos[worker].get("episode")
            returns[worker].append(float(episode["r"] if episode else sums[worker]))
        sums[starts] = 0.0
        left[ended] -= 1
        count(len(ended))
    return returns
