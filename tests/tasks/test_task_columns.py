"""Tasks with named parts: in CSV files, and from plain data."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from sb3_sgmrl import AdaptationReport
from sb3_sgmrl.plots import plot_task_returns
from sb3_sgmrl.tasks.columns import numbers_of_record, task_like


@dataclass(frozen=True)
class Ground:
    kind: str
    friction: float


@dataclass(frozen=True)
class Terrain:
    mass: float
    goal: tuple
    ground: Ground
    steps: int = 3
    made: float = field(default=0.0, init=False)


TERRAINS = [Terrain(0.1, (1.0, -2 / 3), Ground("ice", 1e-17)), Terrain(2.0, (0.0, 4.0), Ground("7", 0.5), 4)]
KINDS = {
    "dataclass": TERRAINS,
    "dictionary": [{"g": 9.8, "name": "earth", "on": True}, {"g": 1.6, "name": "null", "on": False}],
    "nested": [{"a": {"b": [1, 2.5]}, "c": None}, {"a": {"b": [3, 4.0]}, "c": 'x, y\n"z"'}],
    "text": ["left", "7", "1 2", "", '"quoted"', "null", "nan", "task"],
    "array in a dictionary": [{"goal": np.array([0.1, 0.2])}, {"goal": np.array([1.0, -3.0])}],
}


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_are_read_back_as_they_were(kind, tmp_path):
    tasks = KINDS[kind]
    report = AdaptationReport(tasks, np.arange(2.0 * len(tasks)).reshape(-1, 2), "success rate")
    report.to_csv(tmp_path / "report.csv")
    again = AdaptationReport.from_csv(tmp_path / "report.csv", example=tasks[0])
    assert again.measure == report.measure
    np.testing.assert_array_equal(again.returns, report.returns)
    for one, other in zip(again.tasks, tasks, strict=True):
        assert type(one) is type(other)
        if kind.startswith("array"):
            np.testing.assert_array_equal(one["goal"], other["goal"])
            assert one["goal"].dtype == other["goal"].dtype
        else:
            assert one == other


def test_columns_have_the_names_of_the_parts(tmp_path):
    AdaptationReport(TERRAINS, np.zeros((2, 2))).to_csv(tmp_path / "report.csv")
    header = (tmp_path / "report.csv").read_text().splitlines()[0]
    names = "task.mass,task.goal.0,task.goal.1,task.ground.kind,task.ground.friction,task.steps"
    assert header == f"{names},return_after_0,return_after_1"
    read = AdaptationReport.from_csv(tmp_path / "report.csv").tasks[0]  # without an example
    assert read["goal"] == [1.0, -2 / 3] and read["ground"] == {"kind": "ice", "friction": 1e-17}


@pytest.mark.parametrize("task", [{1: 2.0}, {"a.b": 1}, {"3": 1}, {"a": object()}])
def test_parts_that_are_no_columns_are_written_as_text(task, tmp_path):
    AdaptationReport([task], np.zeros((1, 2))).to_csv(tmp_path / "report.csv")
    assert AdaptationReport.from_csv(tmp_path / "report.csv").tasks == [str(task)]


def test_plain_data_become_tasks():
    data = {"mass": 0.1, "goal": [1.0, -2 / 3], "ground": {"kind": "ice", "friction": 1e-17}, "steps": 3}
    assert task_like(data, TERRAINS[1]) == TERRAINS[0]
    assert task_like({name: data[name] for name in ("mass", "goal", "ground")}, TERRAINS[1]) == TERRAINS[0]  # the default
    assert task_like(TERRAINS[0], TERRAINS[1]) is TERRAINS[0]
    np.testing.assert_array_equal(task_like([1, 2], np.zeros(2)), [1.0, 2.0])
    assert task_like("north", "south") == "north" and task_like(3, 0.5) == 3
    for value, example, complaint in (
        ({"mass": 1.0}, TERRAINS[0], "must have the parts mass, goal, ground, steps, as .* got mass"),
        ("north", TERRAINS[0], "must have the parts .* got 'north'"),
        ({**data, "ground": "ice"}, TERRAINS[0], "must have the parts kind, friction"),
        ("north", {"g": 1.0}, "must have the parts g, as .* got 'north'"),
        (3, "south", "must be text, such as 'south', got 3"),
        ("north", np.zeros(2), "'north' is not in the task space, whose tasks are numbers"),
        (["a", "b"], np.zeros(2), "is not in the task space"),
        ({"g": 1}, 0.5, "is not in the task space"),
    ):
        with pytest.raises(ValueError, match=complaint):
            task_like(value, example)


def test_their_numbers_can_be_drawn():
    numbers = np.array([numbers_of_record(task) for task in TERRAINS])
    np.testing.assert_array_equal(numbers[0], [0.1, 1.0, -2 / 3, 1e-17, 3])
    plot_task_returns(AdaptationReport(TERRAINS, np.zeros((2, 2))), numbers[:, 1:3], names=["x", "y"])
    with pytest.raises(ValueError, match="has no numbers"):
        numbers_of_record({"name": "ice"})
