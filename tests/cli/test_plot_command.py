"""What the command for pictures makes of sources: which it shows, by which names, and what it refuses at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from toys import error_of, tiny

from sb3_sgmrl import SGMRL, AdaptationReport
from sb3_sgmrl.cli import plot
from sb3_sgmrl.common import evaluation
from sb3_sgmrl.plots import trajectories

pytest.importorskip("rliable")

GOALS = [np.array([0.25, -0.5]), np.array([-0.25, 0.375]), np.array([0.125, 0.5])]


@pytest.fixture(autouse=True)
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The pictures by path, instead of files, in an empty working directory."""
    figures: dict[str, Figure] = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plot, "write_figure", lambda figure, path, dpi: figures.update({path: figure}))
    return figures


def write_report(path: str, tasks: Sequence[Any] = GOALS, n_steps: int = 2, offset: float = 0.0) -> AdaptationReport:
    returns = offset + np.arange(len(tasks) * (n_steps + 1), dtype=float).reshape(len(tasks), -1)
    report = AdaptationReport(tasks, returns)
    report.to_csv(path)
    return report


def labels_of(axis: Axes) -> list[str]:
    return [str(line.get_label()) for line in axis.lines]


# ---------------------------------------------------------------- tasks


@pytest.mark.parametrize("options", [["--parameters", "0"], ["--env", "Navigation2D-v0", "--parameters", "0"]])
def test_every_report_is_drawn_at_its_own_tasks(options: list[str], drawn: dict[str, Figure]) -> None:
    others = [-goal for goal in GOALS]
    write_report("A.csv")
    write_report("B.csv", others, offset=50)
    assert plot.main(["tasks", "A.csv", "B.csv", *options]) == 0
    (axis,) = drawn["tasks.png"].axes
    for line, tasks in zip(axis.lines, (GOALS, GOALS, others, others), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [task[0] for task in tasks])


TEXTS = ["left", "right"]
LENGTHS = [[0.5, 1.0], [2.0]]
PARTS = [{"goal": [0.5, 1.0], "wind": 3.0}, {"goal": [0.0, 1.0]}]
THREE = [[0.5, 1.0, 2.0], [0.0, 1.0, 3.0]]


@pytest.mark.parametrize(
    "of_reports, options, words",
    [
        ([TEXTS], ["--parameters", "0"], "`--env` is missing: the tasks of 'report' are not numbers"),
        ([TEXTS], [], "`--env` is missing: the tasks of 'report' are not numbers"),
        ([LENGTHS], ["--parameters", "1"], "`--parameters` must select numbers that every task of 'report' has, got 1."),
        ([LENGTHS], [], "`--parameters` must select numbers that every task of 'report' has, got none."),
        ([PARTS], ["--parameters", "gaol"], "select one or two numbers of a task of 'report' from goal.0, goal.1, wind, got"),
        ([PARTS], ["--parameters", "wind"], "`--parameters` must select numbers that every task of 'report' has, got wind."),
        (
            [THREE],
            ["--parameters", "x", "y", "z"],
            "`--parameters` must be one or two names or non-negative indices, got x y z.",
        ),
        (
            [THREE],
            [],
            "`--parameters` must select one or two numbers of a task of 'report' from task[0], task[1], task[2], got none.",
        ),
        (
            [GOALS, [1, 2]],
            [],
            "`--parameters` must select the same of every source, got ['task[0]', 'task[1]'] and ['task[0]'].",
        ),
        (
            [GOALS, [1, 2]],
            ["--parameters", "1"],
            "`--parameters` must select one or two numbers of a task of 'other' from task[0], got 1.",
        ),
    ],
)
def test_tasks_that_cannot_be_drawn(
    of_reports: list[list[Any]], options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, tasks in zip(("report", "other"), of_reports, strict=False):
        write_report(f"{name}.csv", tasks)
    sources = ["report.csv", "other.csv"][: len(of_reports)]
    assert words in error_of(plot, ["tasks", *sources, *options], capsys)


NAMED = [{"goal": [i / 2, i / 4], "name": "far", "wind": i} for i in range(3)]


@pytest.mark.parametrize(
    "options, labels, columns",
    [
        (["wind"], ["wind"], [[0, 1, 2]]),
        (["wind", "goal.0"], ["wind", "goal.0"], [[0, 1, 2], [0, 0.5, 1]]),
        (["goal"], ["goal.0", "goal.1"], [[0, 0.5, 1], [0, 0.25, 0.5]]),
        (["1"], ["goal.1"], [[0, 0.25, 0.5]]),
        (["goal", "--names", "x", "y"], ["x", "y"], [[0, 0.5, 1], [0, 0.25, 0.5]]),
    ],
)
def test_parameters_are_selected_by_name(
    options: list[str], labels: list[str], columns: list[list[float]], drawn: dict[str, Figure]
) -> None:
    write_report("report.csv", NAMED)
    assert plot.main(["tasks", "report.csv", "--parameters", *options]) == 0
    axis = drawn["tasks.png"].axes[0]
    assert [axis.get_xlabel(), axis.get_ylabel().removeprefix("report\n")][: len(labels)] == labels
    shown = axis.collections[0].get_offsets().T if len(labels) == 2 else [axis.lines[0].get_xdata()]
    np.testing.assert_array_equal(shown, columns)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "paths, expected",
    [
        (["one/policy.csv", "two/policy.csv"], ["policy: one", "policy: two"]),
        (["a/x/policy.csv", "a/y/policy.csv", "b/x/policy.csv"], ["policy: a/x", "policy: a/y", "policy: b/x"]),
        (["run/policy.csv", "policy.csv", "other.csv"], ["policy: run", "policy: HERE", "other"]),
        (["A=a/policy_1.csv", "policy_1.csv", "policy_2.csv"], ["A", "policy: policy_1.csv", "policy: policy_2.csv"]),
    ],
)
def test_every_source_has_a_row(paths: list[str], expected: list[str], tmp_path: Path, drawn: dict[str, Figure]) -> None:
    for i, path in enumerate(paths):
        write_report(path.removeprefix("A="), offset=100 * i)
    assert plot.main(["tasks", *paths, "--parameters", "0"]) == 0
    (axis,) = drawn["tasks.png"].axes
    expected = [label.replace("HERE", tmp_path.name) for label in expected]
    assert labels_of(axis) == [f"{label} {when}" for label in expected for when in ("before", "after")]
    assert [line.get_ydata()[0] for line in axis.lines[::2]] == [100 * i for i in range(len(paths))]


@pytest.mark.parametrize(
    "path, beside, name",
    [
        ("exp/SG-MRL_3/adaptation.csv", None, "SG-MRL"),
        ("exp/SG-MRL/evaluations.npz", None, "SG-MRL"),
        ("exp/SG-MRL/progress.csv", None, "SG-MRL"),
        ("exp/SG-MRL/model.zip", None, "SG-MRL"),
        ("exp/SG-MRL/best_model.zip", None, "SG-MRL"),
        ("exp/SG-MRL/rl_model_1000_steps.zip", "progress.csv", "SG-MRL"),
        ("exp/SG-MRL/policy.zip", None, "policy"),
        ("exp/SG-MRL/my_report.csv", None, "my_report"),
        ("exp/SG-MRL/my_report-2.csv", "progress.csv", "my_report"),
        ("exp/x/../SG-MRL/adaptation.csv", None, "SG-MRL"),
    ],
)
def test_files_of_a_run_go_by_its_folder(path: str, beside: str | None, name: str) -> None:
    Path("exp/x").mkdir(parents=True)
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).touch()
    if beside is not None:
        Path(path).with_name(beside).touch()
    assert plot._source(path) == plot.Source(name, Path(path))


@pytest.mark.parametrize(
    "text, name", [("exp/lr=0.1", "lr=0.1"), ("exp/lr=0.1/policy.csv", "policy"), ("A=exp/lr=0.1", "A"), ("B=a=b.csv", "B")]
)
def test_paths_may_hold_an_equals_sign(text: str, name: str) -> None:
    write_report("exp/lr=0.1/policy.csv")
    write_report("a=b.csv")
    assert plot._source(text) == plot.Source(name, Path(text.removeprefix(f"{name}=")))


@pytest.mark.parametrize(
    "text, words",
    [
        ("exp/lr=0.1", "must be an existing file or folder, got exp/lr=0.1 (neither 0.1 nor exp/lr=0.1 exists)."),
        ("A=", "`SOURCE` must be an existing file or folder, got A=."),
    ],
)
def test_of_what_is_not_there_all_is_said(text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in error_of(plot, ["adaptation", text], capsys)


def test_reports_of_two_algorithms_are_two_curves(drawn: dict[str, Figure]) -> None:
    paths = [f"exp/{name}/adaptation.csv" for name in ("A", "B")]
    reports = [write_report(path, offset=i) for i, path in enumerate(paths)]
    assert plot.main(["adaptation", *paths]) == 0
    (axis,) = drawn["adaptation.png"].axes
    assert labels_of(axis) == ["A", "B"]
    for line, report in zip(axis.lines, reports, strict=True):
        np.testing.assert_allclose(line.get_ydata(), report.mean_returns)


def test_every_model_has_a_row(drawn: dict[str, Figure]) -> None:
    model = tiny(SGMRL, "Navigation2D-v0", meta_batch_size=2, n_episodes=2)
    for folder in ("one", "two"):
        model.save(f"{folder}/best_model")
    arguments = ["--env", "Navigation2D-v0", "--n-tasks", "2"]
    assert plot.main(["trajectories", "one/best_model.zip", "two/best_model.zip", *arguments]) == 0
    rows = [axis.get_ylabel() for axis in drawn["trajectories.png"].axes[::2]]
    assert len(rows) == 2 and "one" in rows[0] and "two" in rows[1]


def test_a_source_given_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write_report("a.csv")
    assert "got two sources 'a: a.csv': rename one by NAME=SOURCE" in error_of(plot, ["tasks", "a.csv", "a.csv"], capsys)


# ---------------------------------------------------------------- files of another kind


@pytest.mark.parametrize(
    "kind, name, words",
    [
        ("adaptation", "picture.png", "picture.png is not a report of an AdaptationReport"),
        ("adaptation", "evaluations.npz", "evaluations.npz is not a report of an AdaptationReport"),
        ("adaptation", "long.csv", "long.csv is not a report of an AdaptationReport"),
        ("gradient", "evaluations.npz", "evaluations.npz is not the log of a meta-training, which has columns"),
        ("gradient", "long.csv", "long.csv is not the log of a meta-training, which has columns"),
        ("curves", "picture.png", "picture.png is not the log of a meta-training, which has columns"),
        ("curves", "cut_off.npz", "cut_off.npz was not written by a MetaEvalCallback"),
        ("curves", "empty.npz", "empty.npz was not written by a MetaEvalCallback"),
        ("curves", "array.npz", "array.npz was not written by a MetaEvalCallback"),
    ],
)
def test_files_of_another_kind_are_named(kind: str, name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Figure().savefig("picture.png")
    Path("long.csv").write_text("1" * 200_000)
    np.savez_compressed(
        "evaluations.npz", timesteps=np.arange(300.0), results=np.random.default_rng(0).normal(size=(300, 2, 2))
    )
    Path("cut_off.npz").write_bytes(Path("evaluations.npz").read_bytes()[:3000])
    Path("empty.npz").touch()
    with open("array.npz", "wb") as file:
        np.save(file, np.zeros(3))
    assert words in error_of(plot, [kind, name], capsys)


# ---------------------------------------------------------------- before models play


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["adaptation", "model.zip", "--level", "95"], "`level` must lie between 0 and 1, got 95"),
        (["trajectories", "model.zip", "--level", "nan"], "`level` must lie between 0 and 1, got nan"),
        (["trajectories", "model.zip", "--dpi", "0"], "`--dpi` must lie between 1 and 2400, got 0."),
        (["adaptation", "model.zip", "--dpi", "1000000"], "`--dpi` must lie between 1 and 2400, got 1000000."),
        (
            ["profile", "model.zip", "report.csv", "--n-steps", "3"],
            "`--n-steps` must be at most 2, as in report.csv, got 3.",
        ),
        (["improvement", "model.zip", "report.csv", "--n-steps", "3"], "`--n-steps` must be at most 2, as in report.csv"),
        (["tasks", "model.zip", "report.csv", "--n-steps", "3"], "`--n-steps` must be at most 2, as in report.csv"),
        (["tasks", "model.zip", "--n-steps", "0"], "`n_steps` must be a positive integer, got 0"),
        (["trajectories", "model.zip", "--n-steps", "0"], "`n_steps` must be a positive integer, got 0"),
        (["adaptation", "model.zip", "picture.csv"], "picture.csv is not a report"),
        (["improvement", "A=model.zip", "A=report.csv"], "`improvement` needs at least two algorithms, got 'A'"),
        (
            ["tasks", "model.zip", "--parameters", "-1"],
            "`--parameters` must be one or two names or non-negative indices, got -1.",
        ),
        (["tasks", "model.zip", "--names", "x", "y", "z"], "`--names` must be one or two names, got 'x' 'y' 'z'."),
        (
            ["tasks", "model.zip", "--names", "x", "y", "--parameters", "0"],
            "`--names` must be a name for each of 1 `--parameters`",
        ),
        (["tasks", "model.zip", "model.zip"], "`SOURCE` labels must differ"),
        (["trajectories", "model.zip", "model.zip"], "`SOURCE` labels must differ"),
    ],
)
def test_nothing_is_played_before_options_are_checked(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def play(*_: Any, **__: Any) -> None:
        raise AssertionError("a model has played")

    for module in (evaluation, trajectories):
        monkeypatch.setattr(module, "play_inner_steps", play)
    tiny(SGMRL, "Navigation2D-v0").save("model")
    write_report("report.csv")
    Path("picture.csv").write_bytes(b"\x89PNG")
    assert words in error_of(plot, [*arguments, "--env", "Navigation2D-v0"], capsys)
