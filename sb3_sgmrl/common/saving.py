"""Models as files that hold data and no code, complete or as they were before."""

from __future__ import annotations

import inspect
import io
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_sgmrl.common.arguments import argument_names
from sb3_sgmrl.common.files.building import DERIVED, check_learned, check_parameters, check_settings, not_larger_than
from sb3_sgmrl.common.files.encoding import as_schedule
from sb3_sgmrl.common.files.legacy import is_legacy, legacy_algorithm, read_legacy
from sb3_sgmrl.common.files.model_file import ModelFile, read_algorithm, read_model, write_model
from sb3_sgmrl.common.files.schedules import check_schedule
from sb3_sgmrl.common.files.statistics import saved_normalizer, statistics_of, with_statistics
from sb3_sgmrl.policies.functional import FunctionalPolicy
from sb3_sgmrl.util.archive import BadFileError, is_archive
from sb3_sgmrl.util.files import replace_when_complete, with_zip_suffix
from sb3_sgmrl.util.validation import check_names

SelfSafelySaved = TypeVar("SelfSafelySaved", bound="SafelySaved")

SavePath = str | pathlib.Path | io.BufferedIOBase


def saved_algorithm(path: SavePath) -> str:
    """
    Name of the algorithm that saved a model. Nothing else is looked at, and no code of the file is run.

    :param path: file as SB3's ``load`` takes it
    :return: class name
    :raises FileNotFoundError: when there is no such file
    :raises ValueError: when the file is cut off or is not a model of this package
    """
    with _opened(path) as file:
        return legacy_algorithm(file) if is_legacy(file) else read_algorithm(file)  # type: ignore[arg-type]


def is_legacy_file(path: SavePath) -> bool:
    """
    :param path: file as SB3's ``load`` takes it
    :return: whether it is a model of before 0.1, a pickle; nothing is unpickled
    :raises FileNotFoundError: when there is no such file
    :raises ValueError: when it is of before 0.1 and damaged, or of another package
    """
    with _opened(path) as file:
        return is_legacy(file) and bool(legacy_algorithm(file))  # type: ignore[arg-type]


def read_file(path: SavePath, trusted: bool = False, custom_objects: Mapping[str, Any] | None = None) -> ModelFile:
    """
    Read a model without making it.

    :param path: file as SB3's ``load`` takes it
    :param trusted: whether a file of before 0.1, which is a pickle, may be read too, which runs the code in it
    :param custom_objects: attributes to use instead of those in the file
    :return: what the file says
    :raises FileNotFoundError: when there is no such file
    :raises ValueError: when the file was altered, is not a model of this package, names a class that files may not name, or is
        a pickle that is not trusted
    """
    with _opened(path) as file:
        if not is_legacy(file):  # type: ignore[arg-type]
            return read_model(file, custom_objects)  # type: ignore[arg-type]
        legacy_algorithm(file)  # type: ignore[arg-type]
        if not trusted:
            raise BadFileError(
                "is from before 0.1, a pickle that can run code when it is loaded: if you trust its author, convert it by "
                "`python -m sb3_sgmrl.convert old.zip new.zip` or pass `trusted=True`; else train the model again"
            )
        warnings.warn(
            f"`trusted=True`: unpickling `path` {path}, a file of before 0.1, which runs whatever code its author put there.",
            stacklevel=3,
        )
        return read_legacy(file, custom_objects)  # type: ignore[arg-type]


@contextmanager
def _opened(path: SavePath) -> Iterator[io.BufferedIOBase]:
    """A file to read; errors about it name it."""
    try:
        if isinstance(path, io.BufferedIOBase):
            position = path.tell()
            try:
                yield path
            finally:
                path.seek(position)
            return
        file = pathlib.Path(path)
        if not file.is_file() and file.suffix != ".zip" and with_zip_suffix(file).is_file():
            file = with_zip_suffix(file)
        if file.is_dir():
            raise FileNotFoundError(f"There is no model at `path` {path}, which is a folder: name the file.")
        if not file.exists():
            raise FileNotFoundError(f"There is no model at `path` {with_zip_suffix(file)}.")
        with open(file, "rb") as opened:
            yield opened
    except BadFileError as error:
        raise ValueError(f"`path` {path} {error}.") from error


class SafelySaved(BaseAlgorithm):
    """A BaseAlgorithm whose files are complete, known to be its own, and data."""

    inner_lr_learning_rate: float | None
    adapt_only: str | Sequence[str] | None

    @property
    def functional(self) -> FunctionalPolicy:
        """The policy as a function of its parameters."""
        raise NotImplementedError

    def check_settings(self) -> None:
        """
        :raises ValueError: for the first attribute that is outside its range
        """

    def check_env(self, env: VecEnv) -> None:
        """
        :param env: workers
        :raises ValueError: when they do not go with the settings
        """

    def save(self, path: SavePath, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        Save settings, parameters, optimisers and, if there are any, the statistics of VecNormalize, as data. Of your own
        classes and functions the file has the names only. An existing file is replaced by a complete one only.

        :param path: where to
        :param exclude: attributes left out
        :param include: attributes kept although they would be left out
        """
        model = self._to_file({*(exclude or ())}, {*(include or ())})
        if isinstance(path, io.BufferedIOBase):
            return write_model(path, model)  # type: ignore[arg-type]
        with replace_when_complete(with_zip_suffix(path)) as file:
            write_model(file, model)

    def _to_file(self, exclude: set[str], include: set[str]) -> ModelFile:
        parts = {name.split(".")[0] for name in self._get_torch_save_params()[0]}
        left_out = {*self._excluded_save_params(), *DERIVED} - include | exclude | parts
        normalizer = self.get_vec_normalize_env()
        settings = {name: value for name, value in vars(self).items() if name not in left_out}
        if "learning_rate" in settings:
            settings["learning_rate"] = as_schedule(settings["learning_rate"])
        return ModelFile(
            type(self).__name__,
            settings,
            self.get_parameters(),
            None if normalizer is None else statistics_of(normalizer),
            sorted(exclude),
        )

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfSafelySaved],
        path: SavePath,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trusted: bool = False,
        **kwargs: Any,
    ) -> SelfSafelySaved:
        """
        Load a model saved by :meth:`save`. No code of the file is run: classes of yours that it names must be known by
        :func:`sb3_sgmrl.register`, or be given by ``custom_objects``.

        :param path: file
        :param env: environment to go on with. A model that was trained in a VecNormalize puts it into one with its statistics
        :param device: device of the policy
        :param custom_objects: attributes to use instead of those in the file
        :param print_system_info: print the versions that saved the model, and those of this system
        :param force_reset: forget the last observation
        :param trusted: load also a file of before 0.1, which runs the code in it
        :param kwargs: attributes to change, e.g. ``inner_lr``; ``seed`` begins new random streams
        :return: the model
        :raises ValueError: when the file was altered, is not a model of this package, belongs to another algorithm, names a
            class that is not known or is a pickle that is not trusted, or when an attribute is outside its range or does not
            go with ``env``
        """
        if "n_envs" in kwargs:
            raise ValueError("`n_envs` cannot be changed by load: pass make_vec_env(..., n_envs=...) as `env`.")
        if "engine" in kwargs:
            raise ValueError("`engine` cannot be changed by load: pass a VecEnv as `env`.")
        of_load = inspect.signature(cls.load).parameters
        if (saved := saved_algorithm(path)) != cls.__name__:
            raise ValueError(f"`path` holds a model of {saved}, not of {cls.__name__}: use {saved}.load.")
        check_names(kwargs, argument_names(cls).union(of_load), f"is not an argument of {cls.__name__}")
        seed = kwargs.pop("seed", None)
        file = read_file(path, trusted, custom_objects)
        # learned step sizes and their optimiser are saved, or there are none
        of_step_sizes = ["inner_lr_learning_rate", "inner_lr_per"]
        if file.settings.get("inner_lr_learning_rate") is not None:
            of_step_sizes.append("adapt_only")
        given = {name: kwargs.pop(name) for name in of_step_sizes if name in kwargs}
        if print_system_info:
            print("== CURRENT SYSTEM INFO ==")
            get_system_info()
            print("== SAVED MODEL SYSTEM INFO ==", *(f"- {name}: {found}" for name, found in file.versions.items()), sep="\n")
        try:
            model = cls._from_file(file, env, device, force_reset, custom_objects or {}, kwargs)
        except BadFileError as error:
            raise ValueError(f"`path` {path} {error}.") from error
        for name, value in given.items():
            if value != (saved_value := getattr(model, name)):
                raise ValueError(f"`{name}` cannot be changed by load: it is {saved_value!r} in `path`, got {value!r}.")
        if seed is not None:
            model.seed = int(seed)
            model.set_random_seed(model.seed)
        return model

    @classmethod
    def _from_file(
        cls: type[SelfSafelySaved],
        file: ModelFile,
        env: GymEnv | None,
        device: th.device | str,
        force_reset: bool,
        custom_objects: Mapping[str, Any],
        changes: Mapping[str, Any],
    ) -> SelfSafelySaved:
        settings = dict(file.settings)
        make: Any = cls
        model = make(policy=settings.get("policy_class", "MlpPolicy"), env=None, device=device, _init_setup_model=False)
        check_settings(model, settings, file.left_out, custom_objects)
        settings["policy_kwargs"] = {name: value for name, value in settings["policy_kwargs"].items() if name != "device"}
        given = changes.get("policy_kwargs", settings["policy_kwargs"])
        if given != settings["policy_kwargs"]:
            raise ValueError(f"`policy_kwargs` cannot be changed by load: they are {settings['policy_kwargs']} in `path`.")
        vec_env = None
        if env is not None:
            vec_env = cls._wrap_env(env, changes.get("verbose", settings["verbose"]))
            if file.statistics is not None:
                vec_env = with_statistics(vec_env, file.statistics)
            check_for_correct_spaces(vec_env, settings["observation_space"], settings["action_space"])
            settings["n_envs"] = vec_env.num_envs
            if force_reset:
                settings["_last_obs"] = None
            # with its environment, as by the constructor
            model = make(policy=settings["policy_class"], env=vec_env, device=device, _init_setup_model=False)
        vars(model).update(settings)
        with _settings_of_a_file():
            model.check_settings()
        vars(model).update(changes)
        model.check_settings()
        with not_larger_than(file.parameters), _settings_of_a_file():
            model._setup_model()
        check_parameters(model, file.parameters)
        check_learned(settings, dict(model.functional.parameters()))
        model.set_parameters(file.parameters, exact_match=True, device=device)  # type: ignore[arg-type]
        with _settings_of_a_file():
            model.check_settings()
        if vec_env is not None:
            model.check_env(vec_env)
        elif file.statistics is not None:
            spaces = settings["observation_space"], settings["action_space"]
            model._vec_normalize_env = saved_normalizer(file.statistics, *spaces)
        return model

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        check_schedule(self.learning_rate)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def set_parameters(  # type: ignore[override]
        self, load_path_or_dict: str | dict[str, Any], exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Take over parameters from a file or from what ``get_parameters`` returned.

        :param load_path_or_dict: file of a model, or state dictionaries by name
        :param exact_match: whether every parameter must be given
        :param device: device of the parameters
        :raises ValueError: when the file was altered or is a model of something else
        """
        parameters: Any = load_path_or_dict
        if not isinstance(load_path_or_dict, dict):
            with _opened(load_path_or_dict) as file:
                if is_archive(file):  # type: ignore[arg-type]
                    parameters = read_model(file, dict.fromkeys(vars(self))).parameters  # type: ignore[arg-type]
                    if exact_match:
                        check_parameters(self, parameters)
        super().set_parameters(parameters, exact_match, device)


def with_saved_statistics(model: BaseAlgorithm, env: VecEnv) -> VecEnv:
    """
    :param model: a model, perhaps one that was loaded without an environment
    :param env: workers for it
    :return: workers, in a VecNormalize with the statistics of the file where it had some and no environment came since
    :raises ValueError: when the VecNormalize of the workers has other settings or has learned something else
    """
    normalizer = model.get_vec_normalize_env()
    if model.env is not None or not isinstance(normalizer, VecNormalize) or unwrap_vec_normalize(env) is normalizer:
        return env
    return with_statistics(env, statistics_of(normalizer))


@contextmanager
def _settings_of_a_file() -> Iterator[None]:
    """Whatever is said of arguments that came from a file."""
    try:
        yield
    except BadFileError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300].rstrip(".")
        raise BadFileError(f"has settings that make no model: {text}") from error
