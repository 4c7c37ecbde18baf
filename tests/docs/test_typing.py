"""What type checkers, ``help`` and editors know of the public names."""

import pydoc
import subprocess
import sys
import typing

import pytest
from stable_baselines3.common.vec_env import VecEnv

from sb3_sgmrl import EMAML, MAML, SGMRL, TRPOMAML, ProMP, Reptile
from sb3_sgmrl.envs.mujoco_robots import RobotFamily
from sb3_sgmrl.envs.tabular_mdp import TabularMDP

ALGORITHMS = [SGMRL, MAML, EMAML, ProMP, TRPOMAML, Reptile]
CHOICES = {"baseline", "discount_from", "time_reduction", "inner_surrogate", "inner_lr_per", "engine", "control_variate"}

# each line is an error, but for those that end in "right"
FILE = """
from sb3_sgmrl import MAML, SGMRL, TaskDistEnv, evaluate_adaptation
SGMRL("MlpPolicy", "Navigation2D-v0", baseline="linaer")
MAML("MlpPolicy", "Navigation2D-v0", inner_surrogate="dise")
MAML("MlpPolicy", "Navigation2D-v0", learning_rat=0.1)
TaskDistEnv("Navigation2D-v0").sample_tasks(3, split="tset")
model = SGMRL("MlpPolicy", "Navigation2D-v0", baseline="critic")  # right
model.adapt([0.3, -0.4])
model.adapt(task=[0.3, -0.4])  # right
model.set_env("Navigation2D-v0")  # right
model = SGMRL.load("model.zip", env="Navigation2D-v0")  # right
print(evaluate_adaptation(model, "Navigation2D-v0").summary)
print(evaluate_adaptation(model, "Navigation2D-v0"))  # right
"""


def hints_of(function):
    return typing.get_type_hints(function, localns={"VecEnv": VecEnv})


def literals(hint):
    """All strings of the ``Literal`` types in a hint."""
    if typing.get_origin(hint) is typing.Literal:
        return set(typing.get_args(hint))
    return set().union(*(literals(part) for part in typing.get_args(hint)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_choices_are_literals(algorithm):
    hints = hints_of(algorithm.__init__)
    for name in CHOICES & set(hints):
        assert len(literals(hints[name])) > 1, name
    assert hints_of(algorithm.load)["env"] == hints["env"]
    assert str in typing.get_args(hints_of(algorithm.set_env)["env"])


def test_choices_of_families_are_literals():
    assert literals(hints_of(TabularMDP.__init__)["mean_reward"]) == {"normal", "uniform"}
    assert "velocity" in literals(hints_of(RobotFamily.__init__)["task"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_help_lists_the_arguments(algorithm):
    text = pydoc.render_doc(algorithm, renderer=pydoc.plaintext)
    for name in hints_of(algorithm.__init__):
        assert name == "return" or f":param {name}: " in text, name


@pytest.mark.slow
def test_a_type_checker_finds_wrong_values(tmp_path):
    pytest.importorskip("mypy")
    file = tmp_path / "user.py"
    file.write_text(FILE)
    command = [sys.executable, "-m", "mypy", "--config-file=", "--no-color-output", str(file)]
    out = subprocess.run(command, capture_output=True, text=True).stdout
    found = {int(line.split(":")[1]) for line in out.splitlines() if "error:" in line}
    lines = FILE.splitlines()
    assert found == {i + 1 for i, line in enumerate(lines) if line and "import" not in line and "right" not in line}, out
