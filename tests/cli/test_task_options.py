"""Tasks with named parts and tasks of text, from the command line to the plot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from toys import PointEnv, error_of
from zoo_tools import zoo_process  # noqa: F401

from sb3_sgmrl import SGMRL, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.cli import adapt, enjoy, plot
from sb3_sgmrl.plots import task_parameters


@dataclass(frozen=True)
class Place:
    x: float
    y: float
    name: str = "goal"


PLACES = [Place(0.1, 0.2), Place(0.3, -0.4, "far"), Place(-0.2, 0.0)]
WORDS = {"left": (-0.3, 0.0), "right": (0.3, 0.0), "7": (0.0, 0.3)}


def _family(tasks: list[Any], place: Any) -> Any:
    def make() -> TaskDistEnv:
        env = gym.make("Navigation2D-v0", max_episode_steps=8)
        return TaskDistEnv(env, tasks=tasks, set_task=lambda env, task: env.set_task(place(task)))

    return make


@pytest.fixture(autouse=True)
def families() -> Iterator[None]:
    gym.register("Places-v0", _family(PLACES, lambda task: (task.x, task.y)))
    gym.register("Words-v0", _family(list(WORDS), WORDS.__getitem__))
    yield
    for name in ("Places-v0", "Words-v0"):
        del gym.registry[name]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "model.zip"
    SGMRL("MlpPolicy", "Navigation2D-v0", meta_batch_size=2, n_episodes=2, seed=0).save(path)
    return str(path)


def test_a_dataclass_from_the_command_line(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    usual = ["-i", model, "--env", "Places-v0", "--adapt-steps", "1"]
    Path("task.json").write_text(json.dumps({"x": 0.3, "y": -0.4, "name": "far"}))
    for task in (["--task-file", "task.json"], ["--task", "{'x': 0.3, 'y': -0.4, 'name': 'far'}"]):
        assert adapt.main([*usual, *task]) == 0
        assert f"Task {PLACES[1]}" in capsys.readouterr().out


def test_words_from_the_command_line(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("right", "7"):
        assert adapt.main(["-i", model, "--env", "Words-v0", "--adapt-steps", "1", "--task", word]) == 0
        assert f"Task {word}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "env, arguments, words",
    [
        ("Places-v0", ["--task", "north"], "must have the parts x, y, name"),
        ("Places-v0", ["--task", "{'x': 1}"], "must have the parts x, y, name"),
        ("Places-v0", ["--task", "{'x': 1, 'y': 2}"], "is not one of the 3 tasks"),
        ("Places-v0", ["--task-file", "none.json"], "`--task-file` must be a file that can be read, got none.json"),
        ("Places-v0", ["--task-file", "junk.json"], "`--task-file` must hold a task as JSON, but junk.json does not"),
        ("Words-v0", ["--task", "up", "there"], "Task 'up there' is not one of the 3 tasks"),
        ("Words-v0", ["--task-file", "number.json"], "must be text, such as"),
        ("Navigation2D-v0", ["--task-file", "word.json"], "not in the task space"),
    ],
)
def test_what_is_no_task(env: str, arguments: list[str], words: str, model: str, capfd: pytest.CaptureFixture[str]) -> None:
    for name, text in (("junk.json", "{"), ("number.json", "3"), ("word.json", '"north"')):
        Path(name).write_text(text)
    assert words in error_of(enjoy, ["-i", model, "--no-render", "--env", env, *arguments], capfd)


def test_their_returns_are_drawn(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate_adaptation(SGMRL.load(model), "Places-v0", tasks=PLACES, n_episodes=2)
    report.to_csv("places.csv")
    assert plot.main(["tasks", "places.csv", "--parameters", "0", "1", "--names", "x", "y", "-o", "places.png"]) == 0
    assert plot.main(["tasks", "places.csv", "--env", "Places-v0", "--parameters", "0", "-o", "place.png"]) == 0
    assert Path("places.png").exists() and Path("place.png").exists()
    again = type(report).from_csv("places.csv", example=PLACES[0])
    assert again.tasks == PLACES
    np.testing.assert_array_equal(again.returns, report.returns)
    evaluate_adaptation(SGMRL.load(model), "Words-v0", tasks=list(WORDS), n_episodes=2).to_csv("words.csv")
    assert plot.main(["tasks", "words.csv", "--env", "Words-v0", "--parameters", "0", "2", "-o", "words.png"]) == 0


class _Drawing(PointEnv):
    """Draws its own dataclasses, without a space or a list of them."""

    def __init__(self) -> None:
        super().__init__()
        del self.task_space

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[Place]:
        return [Place(*rng.uniform(-0.5, 0.5, 2).tolist()) for _ in range(n)]

    def set_task(self, task: Place) -> None:
        self.goal = np.array([task.x, task.y])

    def get_task(self) -> Place:
        return Place(*self.goal.tolist())


def test_dataclasses_that_an_environment_draws_are_numbers() -> None:
    env = TaskDistEnv(_Drawing(), horizon=5)
    np.testing.assert_array_equal(task_parameters(env, PLACES), [[place.x, place.y] for place in PLACES])
