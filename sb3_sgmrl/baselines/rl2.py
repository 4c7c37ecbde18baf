"""RL²: a recurrent policy that adapts by its memory (Duan et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from sb3_sgmrl.baselines.base import SB3Baseline, play
from sb3_sgmrl.baselines.trials import Trial, TrialVecEnv
from sb3_sgmrl.common.evaluation import Count
from sb3_sgmrl.util.generators import generators_kept
from sb3_sgmrl.util.threads import single_threaded
from sb3_sgmrl.util.validation import check_positive
from sb3_sgmrl.vec_env.borrowing import borrowed_workers


class RL2(SB3Baseline):
    """
    sb3-contrib's RecurrentPPO on trials of several episodes of one task, see :class:`~sb3_sgmrl.baselines.TrialVecEnv`.

    An evaluation plays whole trials of ``n_steps * n_episodes + 1`` episodes on each task. Its column k is the return of the
    episode that follows ``k * n_episodes`` others, so the policy has seen as many episodes as a meta-learner.

    :param policy: The policy, a recurrent one such as ``MlpLstmPolicy``
    :param env: The task family, as for the algorithms; its observations must be vectors or categories
    :param n_episodes: The number of episodes per task in each step of adaptation
    :param n_trial_episodes: The number of episodes of a trial in training; ``n_episodes + 1``, the episodes of one step and
        the one after it, when None
    :param n_trials: The number of trials on each task in an evaluation
    :param n_envs: The number of workers that train
    :param seed: The seed
    :param kwargs: The arguments of RecurrentPPO; by default a rollout is one trial of each worker, in mini-batches of an
        eighth
    :raises ValueError: When ``env`` has no tasks or no known time limit, or the policy has no memory
    """

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str,
        n_episodes: int = 20,
        n_trial_episodes: int | None = None,
        n_trials: int = 4,
        n_envs: int = 40,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        check_positive(n_trials=n_trials)
        self.n_trial_episodes = n_episodes + 1 if n_trial_episodes is None else n_trial_episodes
        self.n_trials = n_trials
        known = RecurrentPPO.policy_aliases
        cls = known.get(policy) if isinstance(policy, str) else policy
        if not (isinstance(cls, type) and issubclass(cls, RecurrentActorCriticPolicy)):
            raise ValueError(f"`policy` must be recurrent for RL², such as 'MlpLstmPolicy', got {policy!r}.")
        super().__init__(RecurrentPPO, policy, env, n_episodes, n_envs, seed, **kwargs)

    def steps_of_rollout(self, horizon: int) -> int:
        """
        Choose the number of steps of a worker in a rollout.

        :param horizon: The number of steps of an episode
        :return: The number of steps of a trial
        """
        return horizon * self.n_trial_episodes

    def workers(self, env: GymEnv | str | None, n_tasks: int, n_episodes: int) -> AbstractContextManager[VecEnv]:
        """
        Provide workers to evaluate in, one for each trial.

        :param env: The environment; that of the constructor when None
        :param n_tasks: The number of tasks
        :param n_episodes: Not used: the episodes of a trial follow each other
        :return: The workers, for a ``with`` statement
        """
        return super().workers(env, n_tasks, self.n_trials)

    def wrapped(self, env: VecEnv) -> VecEnv:
        """
        Let workers play trials.

        :param env: The workers, which take tasks
        :return: The workers
        """
        return TrialVecEnv(env, self.n_trial_episodes)

    def adaptation_returns(
        self, env: VecEnv, tasks: Sequence[Any], n_steps: int, n_episodes: int, entropy: Sequence[int], count: Count
    ) -> np.ndarray:
        """See :class:`~sb3_sgmrl.baselines.Baseline`."""
        measured = np.arange(n_steps + 1) * n_episodes
        returns = self.trial_returns(env, tasks, int(measured[-1]) + 1, entropy, count)
        return returns[:, :, measured].mean(1)

    def trial_returns(
        self, env: VecEnv, tasks: Sequence[Any], n_episodes: int, entropy: Sequence[int], count: Count
    ) -> np.ndarray:
        """
        Play trials.

        :param env: The workers, from :meth:`workers`
        :param tasks: The tasks
        :param n_episodes: The number of episodes of a trial
        :param entropy: The entropy that names the random stream
        :param count: A function to call with the number of episodes that ended
        :return: The return of each episode, shape (n_tasks, n_trials, n_episodes)
        """
        assert isinstance(env, TrialVecEnv)
        n_total = len(tasks) * self.n_trials
        seeds = np.random.SeedSequence([*entropy, 0]).generate_state(n_total * n_episodes).reshape(n_total, n_episodes)
        trials: list[Trial] = [(tasks[i // self.n_trials], seeds[i].tolist()) for i in range(n_total)]
        of_worker = [range(worker, n_total, env.num_envs) for worker in range(env.num_envs)]
        longer = TrialVecEnv(env.venv, n_episodes)
        longer.set_trials([[trials[i] for i in own] for own in of_worker])
        memory: Any = None
        episode = np.full(env.num_envs, -1)

        def act(observations: np.ndarray, starts: np.ndarray) -> np.ndarray:
            nonlocal memory
            episode[starts] += 1
            actions, memory = self.model.predict(observations, memory, starts & (episode % n_episodes == 0))
            return actions

        with generators_kept(), single_threaded(), borrowed_workers(env):
            set_random_seed(int(np.random.SeedSequence([*entropy, 1, self.seed]).generate_state(1)[0] // 2))
            played = play(longer, [len(own) * n_episodes for own in of_worker], act, count)
        returns = np.zeros((n_total, n_episodes))
        for own, of_episodes in zip(of_worker, played, strict=True):
            returns[list(own)] = np.reshape(of_episodes, (len(own), n_episodes))
        return returns.reshape(len(tasks), self.n_trials, n_episodes)
