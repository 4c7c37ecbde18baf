"""Multi-task training, then fine-tuning on the test task; from scratch; and an oracle that observes the task."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import ConstantSchedule, obs_as_tensor, set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from sb3_sgmrl.baselines.base import SB3Baseline
from sb3_sgmrl.baselines.task_observation import TaskInObservation
from sb3_sgmrl.common.evaluation import Count, counting
from sb3_sgmrl.common.sampling import collect_phase
from sb3_sgmrl.data.batch import PhaseBatch, TaskBatch
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.util.generators import generators_kept
from sb3_sgmrl.util.threads import single_threaded
from sb3_sgmrl.vec_env.borrowing import being_played, borrowed_workers
from sb3_sgmrl.vec_env.task_workers import known_horizon

_CHANGED_BY_TRAIN = ("rollout_buffer", "_logger", "_n_updates", "lr_schedule")


class MultiTaskPPO(SB3Baseline):
    """
    SB3's PPO on all tasks of a family, fine-tuned on each test task.

    A step of fine-tuning is ``PPO.train()`` on the ``n_episodes`` episodes that were played to measure the policy before it.
    It has as many environment steps as an inner step of a meta-learner. Optimiser and critic continue from training. After a
    time limit, the value is that of the last observation.

    :param policy: The policy, such as ``MlpPolicy``
    :param env: The task family, as for the algorithms
    :param n_episodes: The number of episodes per task in each step of fine-tuning
    :param n_envs: The number of workers that train
    :param seed: The seed
    :param fine_tuning_rate: The learning rate of fine-tuning; as in training when None
    :param kwargs: The arguments of PPO; by default a rollout is one episode of each worker, and has eight mini-batches
    :raises ValueError: When ``env`` has no tasks or no known time limit, or an argument is outside its range
    """

    algorithm: type[Any] = PPO
    fine_tunes = True

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str,
        n_episodes: int = 20,
        n_envs: int = 40,
        seed: int = 0,
        fine_tuning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(self.algorithm, policy, env, n_episodes, n_envs, seed, **kwargs)
        self.fine_tuning_rate = fine_tuning_rate

    def adaptation_returns(
        self, env: VecEnv, tasks: Sequence[Any], n_steps: int, n_episodes: int, entropy: Sequence[int], count: Count
    ) -> np.ndarray:
        """See :class:`~sb3_sgmrl.baselines.Baseline`."""
        self.model.policy.set_training_mode(False)
        functional = FunctionalPolicy(self.model.policy)
        students = [self._state()] if not self.fine_tunes else [self._state() for _ in tasks]
        columns = []
        for k in range(n_steps + 1):
            sets = [_adapted(functional, state["policy"]) for state in students]
            with borrowed_workers(env), single_threaded(), being_played(env):
                phase = collect_phase(env, functional, sets, tasks, n_episodes, [*entropy, k], counting(count))
            assert phase is not None
            columns.append(phase.episode_returns.mean(1))
            if self.fine_tunes and k < n_steps:
                students = self._fine_tuned(students, phase, known_horizon(env), [*entropy, k])
        return np.stack(columns, axis=1)

    def _state(self) -> dict[str, Any]:
        policy = self.model.policy
        return {"policy": deepcopy(policy.state_dict()), "optimizer": deepcopy(policy.optimizer.state_dict())}

    def _fine_tuned(
        self, students: list[dict[str, Any]], phase: PhaseBatch, horizon: int, entropy: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Fine-tune the policy of every task by one call of SB3's ``train``; the model is as before afterwards."""
        model: Any = self.model
        before, tuned = self._state(), []
        kept = {name: value for name, value in vars(model).items() if name in _CHANGED_BY_TRAIN}
        try:
            with generators_kept(), single_threaded():
                model.set_logger(Logger(None, []))
                if self.fine_tuning_rate is not None:
                    model.lr_schedule = ConstantSchedule(self.fine_tuning_rate)
                for i, student in enumerate(students):
                    set_random_seed(int(np.random.SeedSequence([*entropy, 2, i, self.seed]).generate_state(1)[0] // 2))
                    _load(model.policy, student)
                    model.rollout_buffer = self._buffer(phase.task(i), horizon)
                    model.train()
                    tuned.append(self._state())
        finally:
            _load(model.policy, before)
            vars(model).update(kept)
            model.policy.set_training_mode(False)
        return tuned

    def _buffer(self, batch: TaskBatch, horizon: int) -> Any:
        """Put the episodes of a task into SB3's buffer, one after the other."""
        model: Any = self.model
        policy = model.policy
        observations, actions = batch.samples()
        n = len(actions)
        buffer = model.rollout_buffer_class(
            n, model.observation_space, model.action_space, model.device, model.gae_lambda, model.gamma, n_envs=1
        )
        with th.no_grad():
            tensors = obs_as_tensor(observations, model.device)
            kinds = th.long if isinstance(model.action_space, (spaces.Discrete, spaces.MultiDiscrete)) else th.float32
            played = th.as_tensor(actions, device=model.device).to(kinds)
            values, log_prob, _ = policy.evaluate_actions(tensors, played)
        if isinstance(observations, dict):
            for key, array in observations.items():
                buffer.observations[key][:, 0] = array.reshape(n, *buffer.obs_shape[key])
        else:
            buffer.observations[:, 0] = observations.reshape(n, *buffer.obs_shape)
        buffer.actions[:, 0] = actions.reshape(n, -1)
        buffer.values[:, 0], buffer.log_probs[:, 0] = values.flatten().cpu().numpy(), log_prob.cpu().numpy()
        step = np.nonzero(batch.mask)[1]
        buffer.episode_starts[:, 0] = step == 0
        rewards = batch.rewards[batch.mask].astype(np.float32)
        timeouts = step == horizon - 1
        buffer.rewards[:, 0] = rewards + model.gamma * timeouts * buffer.values[:, 0]
        buffer.pos, buffer.full = n, True
        buffer.compute_returns_and_advantage(th.zeros(1), np.ones(1, dtype=bool))
        return buffer


def _load(policy: Any, state: dict[str, Any]) -> None:
    policy.load_state_dict(state["policy"])
    policy.optimizer.load_state_dict(deepcopy(state["optimizer"]))


def _adapted(functional: FunctionalPolicy, state: dict[str, th.Tensor]) -> Parameters:
    return {name: state[name] for name in functional.adapted_names}


class MultiTaskTRPO(MultiTaskPPO):
    """
    sb3-contrib's TRPO on all tasks of a family, fine-tuned on each test task. See :class:`MultiTaskPPO`.
    """

    algorithm = TRPO


class FromScratch(MultiTaskPPO):
    """
    PPO that learns on each test task alone, from a random policy. It needs no training. See :class:`MultiTaskPPO`.
    """

    def learn(self, total_timesteps: int, callback: Any = None, reset_num_timesteps: bool = True) -> FromScratch:
        """
        Do nothing, because the policy begins at random on each test task.

        :param total_timesteps: Not used
        :param callback: Not used
        :param reset_num_timesteps: Not used
        :return: The baseline
        """
        return self


class OraclePPO(MultiTaskPPO):
    """
    PPO that observes the task, see :class:`~sb3_sgmrl.baselines.TaskInObservation`. It does not adapt: what it reaches without
    looking for the task is what adaptation can hope for. See :class:`MultiTaskPPO`.
    """

    fine_tunes = False

    def wrapped(self, env: VecEnv) -> VecEnv:
        """
        Show the tasks.

        :param env: The workers, which take tasks
        :return: The workers with tasks in their observations
        """
        return TaskInObservation(env)
