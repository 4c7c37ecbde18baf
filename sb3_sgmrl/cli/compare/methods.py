"""The methods of a comparison: an algorithm with its settings, under a name of its own."""

from __future__ import annotations

import ast
import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.utils import LinearSchedule

from sb3_sgmrl.cli.compare.kinds import KINDS
from sb3_sgmrl.cli.zoo.run_folder import parse_expression
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.util.validation import check_names

# the form of a name, which becomes a folder
_NAME = re.compile(r"[\w.+][\w.+=-]*")
_LINEAR = re.compile(r"lin_(\d*\.?\d+(?:e-?\d+)?)")
# arguments that RL Zoo's files may hold and a schedule may replace
_SCHEDULES = ("learning_rate", "clip_range")


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

    def make(self, env: TaskDistEnv, seed: int, n_threads: int) -> Any:
        """
        Make an untrained model.

        :param env: The task family
        :param seed: The seed of the run
        :param n_threads: The number of threads
        :return: The model or the baseline
        :raises ValueError: When a setting is outside its range
        """
        return KINDS[self.algo].make(env, seed, n_threads, self.arguments())

    def load(self, path: pathlib.Path, env: TaskDistEnv, seed: int, n_threads: int) -> Any:
        """
        Load a checkpoint.

        :param path: The file
        :param env: The task family
        :param seed: The seed of the run
        :param n_threads: The number of threads
        :return: The model or the baseline as it was saved
        """
        return KINDS[self.algo].load(path, env, seed, n_threads, self.arguments())


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
    :param shared: The settings of every method that has them
    :return: The method
    :raises ValueError: When the form is another, or a name is unknown
    """
    head, colon, tail = text.partition(":")
    name, equals, algo = head.partition("=")
    algo = algo if equals else name
    if colon and not equals:
        raise ValueError(f"`--method` must have a name before settings, as in NAME={text}, got {text!r}.")
    check_names([algo], KINDS, "in `--method` is not an algorithm")
    own = dict(name_and_setting(part, "--method") for part in _split(tail)) if tail.strip() else {}
    if not _NAME.fullmatch(name):
        raise ValueError(f"`--method` names must hold letters, digits and .+=-_ alone, got {name!r}.")
    settings = KINDS[algo].defaults(env_id)
    check_names(own, settings, f"is not a setting of {algo}")
    return Method(name, algo, {**settings, **_among(settings, shared), **own})


def check_shared(methods: Iterable[Method], names: Iterable[str], option: str) -> None:
    """
    Check that settings of several methods concern at least one of them.

    :param methods: The methods
    :param names: The names of the settings
    :param option: The option, for errors
    :raises ValueError: When a setting concerns none
    """
    known = {name for method in methods for name in method.settings}
    check_names(names, known, f"in `{option}` is not a setting of any method")


def _among(settings: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in shared.items() if name in settings}


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


def sweep(methods: Sequence[Method], sweeps: Iterable[str]) -> list[Method]:
    """
    Replace every method that has a setting by one for each of its values.

    :param methods: The methods
    :param sweeps: Texts ``SETTING=VALUE,VALUE``; several of them are combined
    :return: The methods; their names end in the values
    :raises ValueError: When a text has another form, or no method has such a setting
    """
    values: dict[str, list[Any]] = {}
    for text in sweeps:
        name, equals, rest = text.partition("=")
        values[name] = [_value(part.strip()) for part in _split(rest) if part.strip()]
        if not equals or not values[name]:
            raise ValueError(f"`--sweep` must have the form SETTING=VALUE,VALUE, got {text!r}.")
    check_shared(methods, values, "--sweep")
    swept = []
    for method in methods:
        own = {name: of_name for name, of_name in values.items() if name in method.settings}
        for chosen in itertools.product(*own.values()):
            settings = dict(zip(own, chosen, strict=True))
            ending = "".join(f"-{key}={value}" for key, value in settings.items())
            swept.append(Method(method.name + ending, method.algo, {**method.settings, **settings}))
    return swept
