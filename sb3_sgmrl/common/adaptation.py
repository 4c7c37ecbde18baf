"""Adapting a model to a task, and the environments to adapt in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gymnasium as gym
from gymnasium.utils.env_checker import data_equivalence
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_sgmrl.common.arguments import with_arguments
from sb3_sgmrl.common.base_class import MetaModel
from sb3_sgmrl.common.files.statistics import check_same_statistics
from sb3_sgmrl.common.phases import adapt_tasks, play_and_adapt, task_phases
from sb3_sgmrl.common.saving import with_saved_statistics
from sb3_sgmrl.data.batch import PhaseBatch, fit_episodes
from sb3_sgmrl.data.spaces import one_line
from sb3_sgmrl.data.streams import ADAPTATION
from sb3_sgmrl.gradient.baselines import BASELINES
from sb3_sgmrl.gradient.on_policy import warn_of_other_policy
from sb3_sgmrl.util.validation import check_inner_steps, check_positive, check_seed, shown
from sb3_sgmrl.vec_env.borrowing import borrowed_workers
from sb3_sgmrl.vec_env.engines import close_task_env, make_task_env
from sb3_sgmrl.vec_env.normalization import seen_by_policy
from sb3_sgmrl.vec_env.task_workers import ask, check_tasks


def fit_to_model(model: MetaModel, vec_env: VecEnv) -> VecEnv:
    """
    Check that workers match a model, and wrap them as the model needs.

    :param model: A model
    :param vec_env: The workers that take tasks
    :return: The same workers, in the wrapper for images if the model needs it
    :raises ValueError: When its spaces or its normalisation do not match the model
    """
    vec_env = model._wrap_env(vec_env)
    for name in ("observation_space", "action_space"):
        wanted, found = getattr(model, name), getattr(vec_env, name)
        if wanted != found:
            raise ValueError(f"`env` must have the {name} of the model, {one_line(wanted)}, but has {one_line(found)}.")
    training, here = model.get_vec_normalize_env(), unwrap_vec_normalize(vec_env)
    if training is not None and (here is None or here.norm_obs != training.norm_obs):
        raise ValueError(
            "`env` must be in a VecNormalize with the norm_obs of the model's environment: the policy expects observations "
            "normalised as in training."
        )
    if training is None and model.env is not None and here is not None and here.norm_obs:
        raise ValueError(
            "`env` must not be in a VecNormalize with norm_obs=True: the model was trained on observations that are not "
            "normalised."
        )
    scale_matters = not model.normalize_advantage or BASELINES[model.baseline].needs_critic
    if model.env is not None and scale_matters and _normalizes_rewards(training) != _normalizes_rewards(here):
        raise ValueError(
            "`env` must have the norm_reward of the model's environment, because with `normalize_advantage=False` or "
            "`baseline='critic'` an inner step depends on the scale of rewards."
        )
    return vec_env


def _normalizes_rewards(normalizer: VecNormalize | None) -> bool:
    return normalizer is not None and normalizer.norm_reward


@contextmanager
def env_to_adapt_in(model: MetaModel, env: GymEnv | str | None, n_columns: int | None = None) -> Iterator[VecEnv]:
    """
    Provide workers to adapt the model in, for a ``with`` statement, and close those made for it at its end.

    :param model: A model
    :param env: The environment, as for the algorithms; the model's environment when None
    :param n_columns: The number of episodes that can run in parallel
    :return: The workers that take tasks, with the spaces and the normalisation of the model
    :raises TypeError: When ``env`` is no environment, for example a task
    :raises ValueError: When the environment has no tasks, other spaces, or another normalisation than in training
    """
    env = model.env if env is None else env
    if env is None:
        raise ValueError("`env` is missing: pass an environment, because the model has none.")
    _check_is_env(env)
    vec_env = make_task_env(env, n_columns)
    if isinstance(env, str):
        vec_env = with_saved_statistics(model, vec_env)
        if (normalizer := unwrap_vec_normalize(vec_env)) is not None:
            normalizer.training = False
    try:
        fitting = fit_to_model(model, vec_env)
        check_same_statistics(model.get_vec_normalize_env(), unwrap_vec_normalize(fitting))
        yield fitting
    finally:
        close_task_env(vec_env, env)


def _check_is_env(env: Any) -> None:
    if not isinstance(env, (gym.Env, VecEnv, str)):
        raise TypeError(
            f"`env` must be an environment or the id of a registered family, got {shown(env)}: pass a task by its name, as in "
            "`adapt(task=...)` or `evaluate_adaptation(model, tasks=[...])`."
        )


@with_arguments
class AdaptiveModel(MetaModel):
    """A policy that adapts to tasks by policy-gradient steps."""

    def adapt(
        self,
        env: GymEnv | str | None = None,
        task: Any = None,
        n_steps: int = 1,
        n_episodes: int | None = None,
        episodes: PhaseBatch | Sequence[PhaseBatch] | None = None,
        seed: int = 0,
    ) -> ActorCriticPolicy:
        """
        Adapt to a task and return an ordinary SB3 policy. The model itself does not change.

        :param env: The environment to play in; the model's environment when None
        :param task: The task; None takes the environment's pinned task, or else a random one
        :param n_steps: The number of inner steps, which may exceed that of training
        :param n_episodes: The number of episodes per inner step; as in training when None
        :param episodes: The episodes to adapt to, of one task and played with the model's policy, in one inner step; None
            plays new ones. A list gives each inner step its own, played with the policy adapted so far
        :param seed: The seed of the episodes and of a random task
        :return: The adapted policy
        :raises TypeError: When ``env`` is no environment, for example a task
        :raises ValueError: When a count is not positive, a task is outside the space, episodes do not fit the model,
            :meth:`learn` is using the workers, or parameters become non-finite
        """
        return self.adapt_stepwise(env, task, n_steps, n_episodes, seed, episodes)[-1]

    def adapt_stepwise(
        self,
        env: GymEnv | str | None = None,
        task: Any = None,
        n_steps: int = 1,
        n_episodes: int | None = None,
        seed: int = 0,
        episodes: PhaseBatch | Sequence[PhaseBatch] | None = None,
    ) -> list[ActorCriticPolicy]:
        """
        Adapt to a task as :meth:`adapt` does, and return the policy after each inner step. It plays the episodes once.

        :param env: The environment to play in; the model's environment when None
        :param task: The task; None takes the environment's pinned task, or else a random one
        :param n_steps: The number of inner steps, which may exceed that of training
        :param n_episodes: The number of episodes per inner step; as in training when None
        :param seed: The seed of the episodes and of a random task
        :param episodes: The episodes to adapt to, as for :meth:`adapt`
        :return: The adapted policies after 1, …, ``n_steps`` inner steps
        :raises ValueError: As in :meth:`adapt`
        """
        if episodes is not None:
            if env is not None or task is not None or n_steps != 1 or n_episodes is not None:
                raise ValueError("`episodes` must be given without `env`, `task` and `n_episodes`, and with `n_steps=1`.")
            check_seed(seed)
            return self._adapt_to([episodes] if isinstance(episodes, PhaseBatch) else episodes)
        check_inner_steps("n_steps", n_steps)
        check_positive(n_episodes=self.n_episodes if n_episodes is None else n_episodes)
        check_seed(seed)
        # all phases are weighed for an inner step, because nothing is played after the last one
        policy, objective = self.functional, replace(self.objective, outer=self.objective.inner)
        n_episodes = n_episodes or self.n_episodes
        with env_to_adapt_in(self, env, n_episodes) as vec_env:
            task = self._task_of(vec_env, seed) if task is None else task
            check_tasks(vec_env, [task])
            with borrowed_workers(vec_env):
                traces = play_and_adapt(
                    vec_env, policy, objective, [task], [n_episodes] * n_steps, [seed, ADAPTATION, 1], self.n_threads
                )
        assert traces is not None
        last = adapt_tasks(policy, objective, [traces[0][-1]], [task], self.n_threads)
        return [policy.policy_with(parameters) for parameters in (*(phase.parameters for phase in traces[0][1:]), *last)]

    def _adapt_to(self, batches: Sequence[PhaseBatch]) -> list[ActorCriticPolicy]:
        """Take an inner step for each batch, which the policy adapted so far has played."""
        fitted = self.fit_episodes(batches)
        policy, objective = self.functional, self.objective
        parameters, found = policy.parameters(), []
        for batch in fitted:
            warn_of_other_policy(policy, parameters, batch.task(0))
            phases = task_phases(policy, objective.inner, batch, [parameters])
            parameters = adapt_tasks(policy, objective, phases, [None], self.n_threads)[0]
            found.append(policy.policy_with(parameters))
        return found

    def fit_episodes(self, batches: Sequence[PhaseBatch]) -> list[PhaseBatch]:
        """
        Check given episodes, and bring raw ones into the form that the policy sees.

        :param batches: The episodes of each inner step
        :return: The episodes, normalised and in the types of the model's spaces
        :raises ValueError: When the episodes do not fit the model
        """
        if not isinstance(batches, (list, tuple)) or len(batches) == 0:
            got = "none" if isinstance(batches, (list, tuple)) else type(batches).__name__
            raise ValueError(f"`episodes` must be a PhaseBatch of one task, or a list of one for each inner step, got {got}.")
        normalizer, spaces = self.get_vec_normalize_env(), (self.observation_space, self.action_space)
        seen = [
            seen_by_policy(batch, normalizer, spaces[0]) if isinstance(batch, PhaseBatch) and batch.is_raw else batch
            for batch in batches
        ]
        return [fit_episodes(batch, *spaces) for batch in seen]

    @staticmethod
    def _task_of(env: VecEnv, seed: int) -> Any:
        pinned = ask(env, "get_pinned_task")
        if not all(data_equivalence(task, pinned[0], exact=True) for task in pinned):
            raise ValueError("`task` must be given: the workers of `env` have different tasks pinned.")
        if pinned[0] is not None:
            return pinned[0]
        return ask(env, "sample_tasks", 1, [seed, ADAPTATION, 0], indices=0)[0][0]
