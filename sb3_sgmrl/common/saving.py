"""Files that are either complete or as they were before."""

from __future__ import annotations

import inspect
import io
import json
import pathlib
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any, TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_sgmrl.common.arguments import argument_names
from sb3_sgmrl.util.files import replace_when_complete, with_zip_suffix
from sb3_sgmrl.util.validation import check_names

SelfSafelySaved = TypeVar("SelfSafelySaved", bound="SafelySaved")
# what SB3 keeps of every algorithm of this package
_PARTS = frozenset({"data", "policy.pth", "policy.optimizer.pth"})

SavePath = str | pathlib.Path | io.BufferedIOBase


def saved_algorithm(path: SavePath) -> str:
    """
    Name of the algorithm that saved a model.

    :param path: file as SB3's ``load`` takes it
    :return: class name
    :raises FileNotFoundError: when there is no such file
    :raises ValueError: when the file is cut off or is not a model of this package
    """
    file = path if isinstance(path, io.BufferedIOBase) else pathlib.Path(path)
    if isinstance(file, pathlib.Path) and not file.is_file():
        file = with_zip_suffix(file)
        if not file.is_file():
            raise FileNotFoundError(f"There is no model at `path` {file}.")
    try:
        with zipfile.ZipFile(file) as archive:  # type: ignore[arg-type]
            damaged = archive.testzip() is not None or not _PARTS.issubset(archive.namelist())
            data = json.loads(archive.read("data"))
    # what zipfile and json find in bytes that make no sense
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"`path` {path} is cut off or is not a saved model: {error}.") from error
    finally:
        if isinstance(file, io.BufferedIOBase):
            file.seek(0)
    if damaged or not isinstance(data, dict) or "algorithm_name" not in data:
        raise ValueError(f"`path` {path} is damaged or was not saved by sb3_sgmrl.")
    return str(data["algorithm_name"])


class SafelySaved(BaseAlgorithm):
    """A BaseAlgorithm whose files are complete and known to be its own."""

    inner_lr_learning_rate: float | None

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
        Save as SB3 does; a file that is already there is replaced by a complete one only.

        :param path: where to
        :param exclude: attributes left out
        :param include: attributes kept although they would be left out
        """
        self.algorithm_name = type(self).__name__  # for load to check
        if isinstance(path, io.BufferedIOBase):
            return super().save(path, exclude, include)
        with replace_when_complete(with_zip_suffix(path)) as file:
            super().save(file, exclude, include)  # type: ignore[arg-type]

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfSafelySaved], path: SavePath, env: GymEnv | None = None, *args: Any, **kwargs: Any
    ) -> SelfSafelySaved:
        """
        Load a model saved by :meth:`save`.

        :param path: file
        :param env: environment to go on with
        :param args: as for SB3's ``load``
        :param kwargs: as for SB3's ``load``, e.g. ``device``, ``custom_objects``, or attributes to change, e.g. ``inner_lr``;
            ``seed`` begins new random streams
        :return: the model
        :raises ValueError: when the file is cut off, is not a model of this package or belongs to another algorithm, or an
            attribute is outside its range or does not go with ``env``
        """
        if (saved := saved_algorithm(path)) != cls.__name__:
            raise ValueError(f"`path` holds a model of {saved}, not of {cls.__name__}: use {saved}.load.")
        if "n_envs" in kwargs:
            raise ValueError("`n_envs` cannot be changed by load: pass make_vec_env(..., n_envs=...) as `env`.")
        if "engine" in kwargs:
            raise ValueError("`engine` cannot be changed by load: pass a VecEnv as `env`.")
        of_load = inspect.signature(super().load).parameters
        check_names(kwargs, argument_names(cls).union(of_load), f"is not an argument of {cls.__name__}")
        seed = kwargs.pop("seed", None)
        as_saved = object()
        rate = kwargs.pop("inner_lr_learning_rate", as_saved)
        model = super().load(path, env, *args, **kwargs)
        saved_rate = model.inner_lr_learning_rate
        if rate is not as_saved and rate != saved_rate:  # its optimiser is saved, or there is none
            raise ValueError(
                f"`inner_lr_learning_rate` cannot be changed by load: it is {saved_rate!r} in `path`, got {rate!r}."
            )
        model.check_settings()
        if model.env is not None:
            model.check_env(model.env)
        if seed is not None:
            model.seed = int(seed)
            model.set_random_seed(model.seed)
        return model
