"""The registry of algorithms: the one list that RL Zoo, the commands, the plots and the searches read."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm
from sb3_sgmrl.emaml import EMAML
from sb3_sgmrl.maml import MAML
from sb3_sgmrl.promp import ProMP
from sb3_sgmrl.reptile import Reptile
from sb3_sgmrl.sgmrl import SGMRL
from sb3_sgmrl.trpomaml import TRPOMAML

_HYPERPARAMETERS = pathlib.Path(__file__).parent / "hyperparams"


@dataclass(frozen=True)
class Algorithm:
    """
    An algorithm and where its settings and its documentation are.

    :param name: The name in commands, such as ``sgmrl``
    :param cls: The class
    :param search: The ranges of arguments that a search for hyperparameters has in place of the usual ones, on a logarithmic
        scale; None leaves the argument out
    """

    name: str
    cls: type[MetaOnPolicyAlgorithm]
    search: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)

    @property
    def hyperparameters(self) -> pathlib.Path:
        """File of RL Zoo's hyperparameters."""
        return _HYPERPARAMETERS / f"{self.name}.yml"

    @property
    def page(self) -> str:
        """Page of the documentation, below ``docs/``."""
        return f"modules/{self.name}.md"


_ALL = (
    Algorithm("sgmrl", SGMRL),
    Algorithm("maml", MAML),
    Algorithm("emaml", EMAML),
    Algorithm("promp", ProMP),
    Algorithm("trpomaml", TRPOMAML, {"target_kl": (1e-3, 0.1), "learning_rate": None, "score_gae_lambda": None}),
    Algorithm("reptile", Reptile, {"learning_rate": (1e-2, 1.0)}),
)
ALGORITHMS: dict[str, Algorithm] = {algorithm.name: algorithm for algorithm in _ALL}


def algorithm_of(cls_name: str) -> Algorithm:
    """
    :param cls_name: The name of a class, as a saved model has it
    :return: The algorithm
    :raises ValueError: When no algorithm has this class
    """
    for algorithm in ALGORITHMS.values():
        if algorithm.cls.__name__ == cls_name:
            return algorithm
    known = ", ".join(algorithm.cls.__name__ for algorithm in ALGORITHMS.values())
    raise ValueError(f"{cls_name!r} is no algorithm of this package; there are {known}.")
