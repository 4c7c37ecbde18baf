"""The protocol of a comparison: everything that changes a number in its table."""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import gymnasium as gym
import numpy as np
import yaml

from sb3_sgmrl.cli.command_line import import_packages
from sb3_sgmrl.cli.compare.kinds import KINDS
from sb3_sgmrl.cli.compare.methods import Method
from sb3_sgmrl.common.evaluation import draw_test_tasks
from sb3_sgmrl.data.streams import EVAL_SEED
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.util.files import replace_when_complete
from sb3_sgmrl.util.validation import check_names, check_positive, check_seed
from sb3_sgmrl.vec_env.engines import close_task_env, make_task_env

# packages whose versions can change numbers
_PACKAGES = ("sb3_sgmrl", "stable_baselines3", "sb3-contrib", "gymnasium", "mujoco", "torch", "numpy")
# a run's conditions are those of the comparison, without what only says which runs there are
_NOT_OF_A_RUN = ("methods", "seeds", "timesteps", "packages", "eval_every")
# part of the text of an object that is another one in each process
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True)
class Protocol:
    """
    What is compared, and how.

    :param env: The id of the task family
    :param methods: The methods
    :param seeds: The seeds of the runs, the same for every method
    :param timesteps: The environment steps of training at which each run is measured, ascending
    :param packages: The modules that register the family
    :param env_kwargs: The arguments of the family
    :param horizon: The number of steps of an episode; as registered when None
    :param n_tasks: The number of test tasks
    :param n_steps: The number of inner steps to measure
    :param n_episodes: The number of episodes per task and inner step
    :param test_seed: The seed of the test tasks
    :param tasks_sha256: The hash of the test tasks; empty until :meth:`completed`
    :param rewards: The version of the rewards; empty until :meth:`completed`
    :param eval_every: The environment steps between two points of a learning curve; 0 draws none
    :param eval_tasks: The number of tasks of such a point; they are no test tasks
    :param eval_steps: The number of inner steps that learning curves and differences between methods are measured after
    :param best: Whether to measure the best policy of these points, too
    """

    env: str
    methods: tuple[Method, ...]
    seeds: tuple[int, ...] = (0, 1)
    timesteps: tuple[int, ...] = (2_000_000,)
    packages: tuple[str, ...] = ()
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    horizon: int | None = None
    n_tasks: int = 200
    n_steps: int = 3
    n_episodes: int = 20
    test_seed: int = 0
    tasks_sha256: str = ""
    rewards: str = ""
    eval_every: int = 0
    eval_tasks: int = 40
    eval_steps: int = 1
    best: bool = False

    def make_env(self) -> TaskDistEnv:
        """
        Make the task family.

        :return: The family as a single environment
        """
        import_packages(self.packages)
        import sb3_sgmrl  # noqa: F401  # registers the families in a process of a pool

        given: dict[str, Any] = {} if self.horizon is None else {"max_episode_steps": self.horizon}
        return TaskDistEnv(gym.make(self.env, **given, **self.env_kwargs))

    def draw_tasks(self, n_tasks: int, seed: int) -> list[Any]:
        """
        Draw tasks to measure on.

        :param n_tasks: The number of tasks
        :param seed: The seed
        :return: The tasks
        """
        env = self.make_env()
        vec_env = make_task_env(env, 1)
        try:
            return draw_test_tasks(vec_env, n_tasks, seed)
        finally:
            close_task_env(vec_env, env)

    def test_tasks(self) -> list[Any]:
        """
        Draw the test tasks.

        :return: The tasks, the same for every run
        :raises ValueError: When they are not those of the protocol
        """
        tasks = self.draw_tasks(self.n_tasks, self.test_seed)
        if self.tasks_sha256 and hash_of(tasks) != self.tasks_sha256:
            raise ValueError(
                f"`tasks_sha256` of the protocol must be {hash_of(tasks)}, the hash of the tasks that {self.env} draws, got "
                f"{self.tasks_sha256}: the family or its sampler has changed."
            )
        return tasks

    def validation_tasks(self) -> list[Any]:
        """
        Draw the tasks of the learning curves.

        :return: The tasks, which differ from the test tasks where there are enough
        """
        return self.draw_tasks(self.eval_tasks, EVAL_SEED)

    def completed(self) -> Protocol:
        """
        Add what follows from the family: horizon, hash of the test tasks and version of the rewards.

        :return: The complete protocol
        :raises ValueError: When the family has no known time limit, or differs from the protocol
        """
        self.check()
        env = self.make_env()
        horizon, rewards = env.horizon, reward_version(env)
        if horizon is None:
            raise ValueError(f"`--horizon` must be given, because {self.env} has no known time limit, got None.")
        if self.rewards and self.rewards != rewards:
            raise ValueError(f"`rewards` of the protocol must be {rewards!r}, as of {self.env} here, got {self.rewards!r}.")
        return replace(self, horizon=horizon, rewards=rewards, tasks_sha256=hash_of(self.test_tasks()))

    def check(self) -> None:
        """
        Check the numbers.

        :raises ValueError: When a number is outside its range, or names repeat
        """
        if not (self.methods and self.seeds and self.timesteps):
            raise ValueError("A comparison must hold at least one method, one seed and one number of timesteps, got none.")
        counts = {"--n-tasks": self.n_tasks, "--n-steps": self.n_steps, "--n-episodes": self.n_episodes}
        check_positive(**counts, **{"--eval-tasks": self.eval_tasks}, **{"--timesteps": self.timesteps[0]})
        if self.horizon is not None:
            check_positive(**{"--horizon": self.horizon})
        check_seed(self.test_seed)
        if not 1 <= self.eval_steps <= self.n_steps:
            raise ValueError(f"`--eval-steps` must lie between 1 and `--n-steps`, {self.n_steps}, got {self.eval_steps}.")
        if self.eval_every < 0:
            raise ValueError(f"`--eval-every` must not be negative, got {self.eval_every}.")
        if self.best and not self.eval_every:
            raise ValueError("`--best` chooses among the points of a learning curve, so `--eval-every` must not be 0.")
        for seed in self.seeds:
            if not 0 <= seed < 2**32:
                raise ValueError(f"`--seeds` must lie between 0 and 2**32 - 1, got {seed}.")
        for option, given in (("--seeds", self.seeds), ("--method", [method.name for method in self.methods])):
            twice = [one for i, one in enumerate(given) if one in given[:i]]
            if twice:
                raise ValueError(f"`{option}` must not repeat a value, got {twice[0]!r} twice.")

    def conditions(self, method: Method) -> dict[str, Any]:
        """
        Return everything except the seed and the length that changes the runs of a method.

        :param method: The method
        :return: The conditions by name, as JSON holds them
        """
        shared = {name: value for name, value in asdict(self).items() if name not in _NOT_OF_A_RUN}
        if method.decays:
            shared["timesteps"] = self.timesteps
        settings = {f"{method.algo}.{name}": value for name, value in method.settings.items()}
        return json.loads(json.dumps({**shared, "algo": method.algo, **settings}))

    def write(self, path: pathlib.Path) -> None:
        """
        Write the protocol as YAML.

        :param path: The file
        """
        content = asdict(self)
        content["methods"] = {method.name: {"algo": method.algo, **method.settings} for method in self.methods}
        text = yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False)
        with replace_when_complete(path) as file:
            header = f"# Reproduce with: python -m sb3_sgmrl.compare --protocol {path.name}\n# Written with {_versions()}\n"
            file.write((header + text).encode())

    @classmethod
    def read(cls, path: pathlib.Path) -> Protocol:
        """
        Read what :meth:`write` wrote.

        :param path: The file
        :return: The protocol
        :raises ValueError: When the file is not a protocol
        """
        try:
            content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
            methods = [Method(name, of.pop("algo"), of) for name, of in content.pop("methods").items()]
            check_names([method.algo for method in methods], KINDS, "is not an algorithm")
            lists: Any = {name: tuple(content.pop(name)) for name in ("seeds", "timesteps", "packages")}
            return cls(methods=tuple(methods), **lists, **content)
        except (OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
            text = " ".join(str(error).split())[:200]
            raise ValueError(f"`--protocol` must be a protocol.yml of this command, got {path}: {text}.") from error


def _versions() -> str:
    found = []
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def reward_version(env: TaskDistEnv) -> str:
    """
    Name the rewards of a family.

    :param env: The family
    :return: The id with its version, and the arguments of the family
    """
    spec = env.unwrapped.spec
    if spec is None:
        return type(env.unwrapped).__name__
    given = ", ".join(f"{name}={value!r}" for name, value in sorted(spec.kwargs.items()) if name != "render_mode")
    return f"{spec.id}({given})"


def hash_of(tasks: Sequence[Any]) -> str:
    """
    Compute a hash of tasks, to see that results are of the same ones.

    :param tasks: The tasks
    :return: The first 16 digits of a SHA-256
    """
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(_bytes(task))
    return digest.hexdigest()[:16]


def _bytes(task: Any) -> bytes:
    if isinstance(task, Mapping):
        return b"".join(str(key).encode() + _bytes(value) for key, value in sorted(task.items()))
    try:
        numbers = np.asarray(task)
    except ValueError:  # the parts have different shapes
        numbers = np.empty(0, dtype=object)
    if numbers.dtype.kind in "biuf":
        return repr((numbers.shape, numbers.astype("<f8").tobytes())).encode()
    return _ADDRESS.sub("", repr(task)).encode()
