"""The base of all algorithms: arguments, environment, network and objective."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_sgmrl.common.arguments import (
    ARGUMENTS,
    Argument,
    check_arguments,
    check_change,
    with_arguments,
)
from sb3_sgmrl.common.saving import SafelySaved, with_saved_statistics
from sb3_sgmrl.common.trainable import check_derivatives, check_trainable, warn_of_shared_critic
from sb3_sgmrl.distributed import n_ranks
from sb3_sgmrl.gradient.advantages import AdvantageSettings, DiscountStart, TimeReduction
from sb3_sgmrl.gradient.baselines import BaselineName
from sb3_sgmrl.gradient.inner import InnerSurrogateName
from sb3_sgmrl.gradient.memory import check_linear_baseline, check_memory
from sb3_sgmrl.gradient.objective import MetaObjective
from sb3_sgmrl.gradient.score_weight import ScoreLimits, ScoreWeights
from sb3_sgmrl.gradient.step_sizes import StepSizeOwner, StepSizes, matching
from sb3_sgmrl.policies.accepted import check_policy, check_policy_name
from sb3_sgmrl.policies.copies import detached
from sb3_sgmrl.policies.functional import FunctionalPolicy, Parameters
from sb3_sgmrl.policies.initialization import initialize
from sb3_sgmrl.score_terms.base import ScoreTerm
from sb3_sgmrl.util.generators import SHARED_GENERATORS
from sb3_sgmrl.util.user_warnings import warn_user
from sb3_sgmrl.vec_env.clones import copy_wrappers
from sb3_sgmrl.vec_env.engines import EngineName, as_task_vec_env
from sb3_sgmrl.vec_env.normalization import NormalizerUpdate, check_normalization
from sb3_sgmrl.vec_env.task_workers import check_task_workers, find_horizon


@with_arguments
class MetaModel(SafelySaved):
    """
    A policy with everything that its adaptation depends on: arguments, environment, network and objective.
    """

    arguments: ClassVar[dict[str, Argument]] = ARGUMENTS
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }
    policy: ActorCriticPolicy
    env: VecEnv

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-3,
        meta_batch_size: int = 20,
        n_episodes: int = 20,
        n_outer_episodes: int | None = None,
        n_inner_steps: int = 1,
        inner_lr: float = 0.1,
        inner_lr_learning_rate: float | None = None,
        inner_lr_per: StepSizeOwner = "tensor",
        adapt_only: str | Sequence[str] | None = None,
        gamma: float = 0.99,
        gae_lambda: float = 0.997,
        baseline: BaselineName = "linear",
        normalize_advantage: bool = True,
        discount_from: DiscountStart = "step",
        time_reduction: TimeReduction = "mean",
        outer_advantage: dict[str, Any] | None = None,
        inner_surrogate: InnerSurrogateName = "pathwise",
        first_order: bool = False,
        max_grad_norm: float | None = 0.5,
        n_epochs: int = 1,
        clip_range: float | Schedule = 0.2,
        target_kl: float | None = None,
        vf_epochs: int = 10,
        normalizer_update: NormalizerUpdate = "step",
        n_envs: int | None = None,
        engine: EngineName = "auto",
        n_threads: int | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        check_policy_name(policy, self.policy_aliases)
        given = {"n_envs": n_envs, "engine": engine, "stats_window_size": stats_window_size, "policy_kwargs": policy_kwargs}
        of_run = {"tensorboard_log": tensorboard_log, "verbose": verbose, "seed": seed, "device": device}
        check_arguments(self.arguments, {**given, **of_run, "_init_setup_model": _init_setup_model})
        self.meta_batch_size = meta_batch_size
        self.n_episodes = n_episodes
        self.n_outer_episodes = n_outer_episodes
        self.n_inner_steps = n_inner_steps
        self.inner_lr = inner_lr
        self.inner_lr_learning_rate = inner_lr_learning_rate
        self.inner_lr_per = inner_lr_per
        self.adapt_only = adapt_only
        self.step_sizes: StepSizes | None = None
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.baseline = baseline
        self.normalize_advantage = normalize_advantage
        self.discount_from = discount_from
        self.time_reduction = time_reduction
        self.outer_advantage = outer_advantage
        self.inner_surrogate = inner_surrogate
        self.first_order = first_order
        self.max_grad_norm = max_grad_norm
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.target_kl = target_kl
        self.vf_epochs = vf_epochs
        self.normalizer_update = normalizer_update
        self.n_threads = n_threads
        self.learning_rate = learning_rate
        self.check_settings()
        seed = seed if seed is None else int(seed)
        if env is None and _init_setup_model:
            raise ValueError("`env` is missing: it must be a TaskDistEnv, a VecEnv of them or the id of a task family.")
        if env is not None:
            n_columns = -(-meta_batch_size // n_ranks()) * max(n_episodes, n_outer_episodes or n_episodes)
            env = as_task_vec_env(env, n_envs, n_columns, engine, verbose)
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            support_multi_env=True,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        )
        if self.env is not None and _init_setup_model:  # otherwise `load` sets the settings later
            self.check_env(self.env)
        self._start_streams(seed)
        if _init_setup_model:
            self._setup_model()

    def __setattr__(self, name: str, value: Any) -> None:
        is_made = "policy" in vars(self)
        if is_made:
            check_change(self.arguments, name, value, is_new=not (name in vars(self) or hasattr(type(self), name)))
            if name == "env" and value is not None:
                vars(self)["_vec_normalize_env"] = unwrap_vec_normalize(value)
        super().__setattr__(name, value)
        if is_made and name == "learning_rate":
            self._setup_lr_schedule()

    @staticmethod
    def _wrap_env(env: GymEnv | str, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return BaseAlgorithm._wrap_env(as_task_vec_env(env, verbose=verbose), verbose, monitor_wrapper)

    def set_env(self, env: GymEnv | str, force_reset: bool = True) -> None:
        """
        Use another environment. Results do not depend on its number of workers.

        :param env: The environment, as for the constructor, with the same spaces
        :param force_reset: Whether to forget the last observation
        :raises ValueError: When the spaces differ, or the workers cannot take a task
        """
        env = with_saved_statistics(self, self._wrap_env(env, self.verbose))
        check_for_correct_spaces(env, self.observation_space, self.action_space)
        self.check_env(env)
        self._vec_normalize_env = unwrap_vec_normalize(env)
        if force_reset:
            self._last_obs = None
        vars(self)["n_envs"] = env.num_envs
        self.env = env

    def check_env(self, env: VecEnv) -> None:
        """
        Check that workers can play meta-iterations of this model.

        :param env: The workers
        :raises ValueError: When they cannot take a task, a meta-iteration does not fit into memory, or normalised observations
            would be truncated to integers
        """
        check_task_workers(env)
        check_normalization(unwrap_vec_normalize(env))
        n_episodes = self.meta_batch_size * sum(self.episodes_per_phase)
        # without a time limit, sampling checks the memory while episodes grow
        horizon = find_horizon(env)
        check_memory(n_episodes, horizon or 1, env.observation_space, env.action_space)
        if horizon is not None and (self.objective.inner.predictor.is_fitted or self.objective.outer.predictor.is_fitted):
            check_linear_baseline(max(self.episodes_per_phase), horizon, env.observation_space)

    def _start_streams(self, seed: int | None) -> None:
        # every random number follows from these two, so a loaded model resumes exactly
        self._entropy = seed if seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        self._iteration = 0

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Restart the random streams. Tasks, episodes and actions then equal those of a new model with this seed.

        :param seed: The seed; None changes nothing
        """
        super().set_random_seed(seed)
        if seed is not None:
            self._start_streams(seed)

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        check_policy(self.policy_class, self.policy_kwargs, self.observation_space)
        with SHARED_GENERATORS:
            super().set_random_seed(self.seed)
            self._make_policy()
        if self.inner_lr_learning_rate is not None:
            parameters = self.functional.parameters()
            shapes = {name: value.shape for name, value in parameters.items()} if self.inner_lr_per == "entry" else None
            self.step_sizes = StepSizes(self.names_to_adapt, self.inner_lr_learning_rate, self.device, shapes)
        self.names_to_adapt  # noqa: B018  # checks the patterns

    def _make_policy(self) -> None:
        policy_kwargs = {"ortho_init": False, **self.policy_kwargs}
        policy_class: Any = self.policy_class
        try:
            policy = policy_class(self.observation_space, self.action_space, self.lr_schedule, use_sde=False, **policy_kwargs)
        except (TypeError, ValueError, AssertionError, AttributeError, RuntimeError, LookupError) as error:
            text = " ".join(str(error).split())[:300].rstrip(".")
            name = "policy_kwargs" if self.policy_kwargs else "policy"
            raise ValueError(f"`{name}` must fit {policy_class.__name__} and the spaces of `env`: {text}.") from error
        self.policy = policy.to(self.device)
        if "ortho_init" not in self.policy_kwargs:
            initialize(self.policy)
        # policies as functions drop no units and change no running statistics, so the critic must not either
        self.policy.set_training_mode(False)
        self._functional = FunctionalPolicy(self.policy)
        check_derivatives(self, self._functional)
        warn_of_shared_critic(self, self._functional)

    @property
    def functional(self) -> FunctionalPolicy:
        """The current policy as a function of its parameters, also after it was changed or replaced."""
        self.policy.set_training_mode(False)
        self._functional = self._functional.followed(self.policy)
        return self._functional

    def __deepcopy__(self, memo: dict[int, Any]) -> MetaModel:
        memo.update(detached(self.policy))
        if (logger := getattr(self, "_logger", None)) is not None:
            memo[id(logger)] = logger  # files and streams of a logger cannot be copied
        for env in (self.env, self.get_vec_normalize_env()):  # the latter is another one before a loaded model has workers
            if id(env) not in memo:
                copy_wrappers(env, memo)
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        vars(clone).update(copy.deepcopy(vars(self), memo))
        return clone

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_functional"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        learned = [] if self.step_sizes is None else ["step_sizes", "step_sizes.optimizer"]
        return ["policy", "policy.optimizer", *learned], []

    def check_settings(self) -> None:
        """
        Check the arguments as they are now.

        :raises ValueError: When an argument is outside its range, or ``inner_lr_learning_rate`` changed after construction
        """
        check_arguments(self.arguments, {**vars(self), "n_envs": None})  # the attribute counts the workers of any `env`
        self.objective  # noqa: B018  # checks its own settings
        if self.score_term is not None:
            self.score_term.check(self)
            if self.first_order:
                warn_user(
                    "`first_order=True` together with a score term is the most biased combination: the second-order term and "
                    "the score term largely cancel, so keep both or neither.",
                )
        if self.n_epochs > 1 and not self.objective.surrogate.has_local_form:
            raise ValueError(
                f"`n_epochs` must be 1 with `inner_surrogate={self.inner_surrogate!r}`, which has no local surrogate, "
                f"got {self.n_epochs!r}."
            )
        if self.inner_lr_per != "tensor" and self.inner_lr_learning_rate is None:
            raise ValueError(
                f"`inner_lr_per` must be 'tensor' without `inner_lr_learning_rate`, got {self.inner_lr_per!r}: "
                "fixed step sizes are all equal."
            )
        if hasattr(self, "policy"):
            check_trainable(self, self.functional)
            self._check_step_sizes()

    def _check_step_sizes(self) -> None:
        """Check the arguments that the step sizes and their optimiser depend on."""
        sizes = self.step_sizes
        made_with = None if sizes is None else sizes.learning_rate
        if self.inner_lr_learning_rate != made_with:
            raise ValueError(
                "`inner_lr_learning_rate` cannot be changed after construction: "
                f"it was {made_with!r}, got {self.inner_lr_learning_rate!r}."
            )
        if sizes is not None and sizes.owner != self.inner_lr_per:
            raise ValueError(
                f"`inner_lr_per` cannot be changed after construction: it was {sizes.owner!r}, got {self.inner_lr_per!r}."
            )

    @property
    def objective(self) -> MetaObjective:
        """The objective of training, from the arguments of the constructor."""
        shared: dict[str, Any] = {
            "gamma": self.gamma,
            "gae_lambda": self.gae_lambda,
            "baseline": self.baseline,
            "normalize": self.normalize_advantage,
            "discount_from": self.discount_from,
            "time_reduction": self.time_reduction,
        }
        return MetaObjective(
            inner=AdvantageSettings(**shared),
            outer=AdvantageSettings(**{**shared, **(self.outer_advantage or {})}),
            inner_lr=self.inner_lr,
            relative_lr=self._relative_lr(),
            inner_surrogate=self.inner_surrogate,
            first_order=self.first_order,
            score_coef=self.score_weights(),
            score_limits=self.score_limits(),
        )

    @property
    def names_to_adapt(self) -> tuple[str, ...]:
        """Names of the parameters that inner steps change, from ``adapt_only``."""
        return matching(self.functional.adapted_names, self.adapt_only)

    def _relative_lr(self) -> Parameters | None:
        if not hasattr(self, "policy") or (self.step_sizes is None and self.adapt_only is None):
            return None
        zero, one = th.zeros((), device=self.device), th.ones((), device=self.device)
        learned = {} if self.step_sizes is None else self.step_sizes.by_name()
        adapted = {name: learned.get(name, one) for name in self.names_to_adapt}
        return {name: adapted.get(name, zero) for name in self.functional.adapted_names}

    def inner_lr_by_parameter(self) -> dict[str, float]:
        """
        List the step sizes of an inner step.

        :return: The step size for each parameter that shapes the actions, by name. It is the mean over entries that differ,
            and zero for a parameter that is not adapted
        """
        relative = self.objective.relative_lr
        return {
            name: self.inner_lr * (1.0 if relative is None else float(relative[name].mean()))
            for name in self.functional.adapted_names
        }

    @property
    def score_term(self) -> ScoreTerm | None:
        """The score term added to the pathwise gradient, formula (B); None adds nothing, as in MAML."""
        return None

    def score_weights(self) -> float | ScoreWeights:
        """
        Return the weights of the score term.

        :return: The weight λ of the score term, or a weight for each inner step and parameter
        """
        return 1.0

    def score_limits(self) -> ScoreLimits:
        """
        Return the norms at which score terms are cut off.

        :return: The norms for each inner step; empty leaves the terms as they are
        """
        return ()

    @property
    def episodes_per_phase(self) -> list[int]:
        """The numbers of episodes of a task in each phase of a meta-iteration: ζ inner batches and the outer one."""
        return [*[self.n_episodes] * self.n_inner_steps, self.n_outer_episodes or self.n_episodes]
