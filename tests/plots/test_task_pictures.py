"""Returns against the parameters of a task."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from report_tools import reports_of, saved
from toys import PointEnv, point

from sb3_sgmrl import AdaptationReport, TaskDistEnv
from sb3_sgmrl.plots import named_parameters, plot_task_returns, task_parameters


def test_returns_of_tasks(tmp_path: Path) -> None:
    report = reports_of(0.0)[0]
    distances = np.linalg.norm(report.tasks, axis=1)
    (axis,) = saved(plot_task_returns({"A": report, "B": report}, distances, names=["distance"]), tmp_path).axes
    for drawn, k in zip(axis.lines, (0, 2, 0, 2), strict=True):
        np.testing.assert_allclose(drawn.get_xdata(), distances)
        np.testing.assert_allclose(drawn.get_ydata(), report.returns[:, k])
    assert axis.get_xlabel() == "distance"
    figure = saved(plot_task_returns({"A": report, "B": report}, n_steps=1), tmp_path)
    for axis, k in zip(figure.axes[:4], (0, 1, 0, 1), strict=True):
        np.testing.assert_allclose(axis.collections[0].get_offsets(), report.tasks)
        np.testing.assert_allclose(axis.collections[0].get_array(), report.returns[:, k])
    assert len({axis.collections[0].get_clim() for axis in figure.axes[:4]}) == 1
    for parameters, names, words in (
        (distances[:2], None, "row for each of 4 tasks"),
        (np.zeros((4, 3)), None, "one or two numbers per task, got 3"),
        (distances, ["x", "y"], "`names` must hold 1 name,"),
    ):
        with pytest.raises(ValueError, match=words):
            plot_task_returns(report, parameters, names)
    apart = {"A": report, "B": AdaptationReport(report.tasks[:2], report.returns[:2])}
    (axis,) = plot_task_returns(apart, {"B": distances[:2], "A": distances}).axes
    for drawn, expected in zip(axis.lines, (distances, distances, distances[:2], distances[:2]), strict=True):
        np.testing.assert_allclose(drawn.get_xdata(), expected)
    for of_each, words in (
        ({"A": distances}, r"must have the names of `reports` \['A', 'B'\], got \['A'\]"),
        ({"A": distances, "B": np.zeros((2, 2))}, "one number per task in every report or two in every report"),
    ):
        with pytest.raises(ValueError, match=words):
            plot_task_returns(apart, of_each)
    with pytest.raises(ValueError, match="are needed for tasks that are not equally many numbers"):
        plot_task_returns(AdaptationReport(["left", "right"], report.returns[:2]))
    with pytest.raises(ValueError, match="between 1 and 2"):
        plot_task_returns(report, n_steps=0)


def test_parameters_of_tasks() -> None:
    tasks = [np.array([0.5, -0.5]), np.array([0.0, 1.0])]
    np.testing.assert_array_equal(task_parameters(point(), tasks), tasks)
    with pytest.raises(ValueError, match="has no tasks"):
        task_parameters("CartPole-v1", tasks)


class Labelled(PointEnv):
    task_labels = ("x", "y")


class Turned(gym.Wrapper):
    """Has tasks of its own."""

    def set_task(self, task: np.ndarray) -> None:
        self.unwrapped.set_task(task[::-1])  # type: ignore[attr-defined]


def _goal(env: PointEnv, task: np.ndarray) -> None:
    env.set_task(task)


BOX = spaces.Box(-1, 1, (2,))


@pytest.mark.parametrize(
    "env, names",
    [
        (None, ["task[0]", "task[1]"]),
        (TaskDistEnv(PointEnv(), horizon=5), ["task[0]", "task[1]"]),
        (TaskDistEnv(Labelled(), horizon=5), ["x", "y"]),
        (TaskDistEnv(Turned(Labelled()), horizon=5), ["task[0]", "task[1]"]),
        (TaskDistEnv(Labelled(), task_space=BOX, set_task=_goal, horizon=5), ["task[0]", "task[1]"]),
        (TaskDistEnv(PointEnv(), task_space=BOX, set_task="goal", horizon=5), ["goal[0]", "goal[1]"]),
        (TaskDistEnv("Pendulum-v1", task_space=BOX, set_task=["m", "l"]), ["m", "l"]),
    ],
)
def test_parameters_have_the_names_of_the_family(env: TaskDistEnv | None, names: list[str]) -> None:
    tasks = [np.array([0.5, -0.5]), np.array([0.0, 1.0])]
    named = named_parameters(tasks, env)
    assert list(named) == names
    np.testing.assert_array_equal(list(named.values()), [[0.5, 0.0], [-0.5, 1.0]])


def test_parameters_of_records_have_the_names_of_their_parts() -> None:
    named = named_parameters([{"goal": (1, 2), "kind": "far"}, {"wind": 3, "goal": (4, 5)}])
    assert list(named) == ["goal.0", "goal.1", "wind"]
    np.testing.assert_array_equal(list(named.values()), [[1, 4], [2, 5], [np.nan, 3]])
    with pytest.raises(TypeError, match="`env` is missing"):
        named_parameters([{"kind": "far"}, {"kind": "near"}])
