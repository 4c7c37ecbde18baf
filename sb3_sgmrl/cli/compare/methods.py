"""The methods of a comparison: an algorithm with its settings, under a name of its own."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from stable_baselines3.common.utils import LinearSchedule

from sb3_sgmrl.algorithms import ALGORITHMS
from sb3_sgmrl.cli.zoo.run_folder import parse_expression
from sb3_sgmrl.common.arguments import argument_names
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.util.validation import check_names

# the algorithms that are a setting of another
_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {"fomaml": ("maml", {"first_order": True})}
# the form of a name, which becomes a folder
_NAME = re.compile(r"[\w.+][\w.+=-]*")
_LINEAR = re.compile(r"lin_(\d*\.?\d+(?:e-?\d+)?)")
# arguments that RL Zoo's files may hold and a schedule may replace
_SCHEDULES = ("learning_rate", "clip_range")


def algorithm_names() -> list[str]:
    """
    List the algorithms that a comparison may hold.

    :return: The names
    """
    return [*ALGORITHMS, *_VARIANTS]


@dataclass(frozen=True)
class Method:
    """
    An algorithm with all its settings.

    :param name: The name in tables and of folders
    :param algo: The name of the algorithm
    :param settings: The arguments of the constructor that change results, as a YAML file can hold them
    """

    name: str
    algo: str
    settings: dict[str, Any]

    @property
    def cls(self) -> type[MetaOnPolicyAlgorithm]:
        """The class of the algorithm."""
        return ALGORITHMS[_VARIANTS.get(self.algo, (self.algo, {}))[0]].cls

    def arguments(self) -> dict[str, Any]:
        """
        Convert the settings to arguments of the constructor.

        :return: The arguments; ``lin_0.001`` is a schedule, and text in ``policy_kwargs`` is read as Python
        """
        arguments = dict(self.settings)
        if isinstance(arguments.get("policy_kwargs"), str):
            arguments["policy_kwargs"] = parse_expression(arguments["policy_kwargs"])
        for name in _SCHEDULES:
            if decay := _LINEAR.fullmatch(str(arguments.get(name))):
                arguments[name] = LinearSchedule(float(decay[1]), 0.0, 1.0)
        return arguments

    @property
    def decays(self) -> bool:
        """Whether a setting decays over the steps of training, which then cannot be extended."""
        return any(_LINEAR.fullmatch(str(self.settings.get(name))) for name in _SCHEDULES)

    def make(self, env: TaskDistEnv, seed: int, n_threads: int) -> MetaOnPolicyAlgorithm:
        """
        Make an untrained model.

        :param env: The task family
        :param seed: The seed of the run
        :param n_threads: The number of threads
        :return: The model
        :raises ValueError: When a setting is outside its range
        """
        return self.cls(env=env, seed=seed, n_threads=n_threads, **self.arguments())

    def load(self, path: Any, env: TaskDistEnv, n_threads: int) -> MetaOnPolicyAlgorithm:
        """
        Load a checkpoint.

        :param path: The file
        :param env: The task family
        :param n_threads: The number of threads
        :return: The model as it was saved
        """
        return self.cls.load(path, env=env, n_threads=n_threads)


def name_and_setting(text: str, option: str) -> tuple[str, Any]:
    """
    Read NAME=VALUE, where the value is Python or else text.

    :param text: The text
    :param option: The option, for errors
    :return: The name and the value
    :raises ValueError: When there is no name or no value
    """
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise ValueError(f"`{option}` must have the form NAME=VALUE, got {text!r}.")
    return name.strip(), _value(value.strip())


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_method(text: str, env_id: str, shared: Mapping[str, Any]) -> Method:
    """
    Read a method as the command line has it.

    :param text: ``ALGO``, ``NAME=ALGO`` or ``NAME=ALGO:SETTING=VALUE,SETTING=VALUE``
    :param env_id: The task family, whose hyperparameters are the defaults
    :param shared: The settings of every method
    :return: The method
    :raises ValueError: When the form is another, or a name is unknown
    """
    head, colon, tail = text.partition(":")
    name, equals, algo = head.partition("=")
    algo = algo if equals else name
    if colon and not equals:
        raise ValueError(f"`--method` must have a name before settings, as in NAME={text}, got {text!r}.")
    check_names([algo], algorithm_names(), "in `--method` is not an algorithm")
    own = dict(name_and_setting(part, "--method") for part in _split(tail)) if tail.strip() else {}
    return make_method(name, algo, env_id, {**shared, **own})


def _split(text: str) -> Iterator[str]:
    """Split at the commas outside of brackets and quotes."""
    depth, quote, part = 0, "", ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0 and not quote:
            yield part
            part = ""
        else:
            part += letter
    yield part


def make_method(name: str, algo: str, env_id: str, given: Mapping[str, Any]) -> Method:
    """
    Complete the settings of a method by the hyperparameters of the task family and the defaults of the class.

    :param name: The name of the method
    :param algo: The algorithm
    :param env_id: The task family
    :param given: The settings that differ
    :return: The method
    :raises ValueError: When a name is unknown, or cannot be a folder
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"`--method` names must hold letters, digits and .+=-_ alone, got {name!r}.")
    file, own = _VARIANTS.get(algo, (algo, {}))
    cls = ALGORITHMS[file].cls
    known = argument_names(cls, "learning", "playing") - {"n_threads"} | {"policy"}
    check_names(given, known, f"is not a setting of {algo}")
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(cls).parameters.items()
        if key in argument_names(cls, "learning")
    }
    return Method(name, algo, {**defaults, **hyperparameters(file, env_id), **own, **given})


def hyperparameters(algo: str, env_id: str) -> dict[str, Any]:
    """
    Read the package's hyperparameters of an algorithm.

    :param algo: The algorithm
    :param env_id: The task family; families without an entry have the default one
    :return: The hyperparameters without ``n_timesteps``
    """
    entries = yaml.safe_load(ALGORITHMS[algo].hyperparameters.read_text(encoding="utf-8"))
    return {name: value for name, value in entries.get(env_id, entries["default"]).items() if name != "n_timesteps"}


def sweep(methods: Sequence[Method], sweeps: Iterable[str]) -> list[Method]:
    """
    Replace every method by one for each value of a setting.

    :param methods: The methods
    :param sweeps: Texts ``SETTING=VALUE,VALUE``; several of them are combined
    :return: The methods; their names end in the values
    :raises ValueError: When a text has another form, or a method has no such setting
    """
    values: dict[str, list[Any]] = {}
    for text in sweeps:
        name, equals, rest = text.partition("=")
        values[name] = [_value(part.strip()) for part in _split(rest) if part.strip()]
        if not equals or not values[name]:
            raise ValueError(f"`--sweep` must have the form SETTING=VALUE,VALUE, got {text!r}.")
        for method in methods:
            check_names([name], method.settings, f"in `--sweep` is not a setting of {method.algo}")
    swept = []
    for method in methods:
        for chosen in itertools.product(*values.values()):
            own = dict(zip(values, chosen, strict=True))
            ending = "".join(f"-{key}={value}" for key, value in own.items())
            swept.append(Method(method.name + ending, method.algo, {**method.settings, **own}))
    return swept
