"""The checker of task distributions finds planted faults, and is silent on the registered families."""

import re

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from toys import PointEnv, point

import sb3_sgmrl  # noqa: F401  # registers the families
from sb3_sgmrl import TaskDistEnv
from sb3_sgmrl.cli.check import main
from sb3_sgmrl.vec_env.task_checker import check_tasks


class GoalObserved(PointEnv):
    def _observe(self, space):
        return np.array([*self.position, self.goal[0]], np.float32)


class GoalOneHot(PointEnv):
    """The first observation alone tells the quadrant."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-9, 9, (4,), np.float32)

    def _observe(self, space):
        quadrant = 2 * (self.goal[0] > 0) + (self.goal[1] > 0)
        return np.eye(4, dtype=np.float32)[quadrant]


class LostOnReset(PointEnv):
    """The second reset forgets the task for good."""

    n_resets = 0

    def reset(self, **kwargs):
        self.n_resets += 1
        if self.n_resets % 3 == 0:
            self.goal = np.zeros(2)
        return super().reset(**kwargs)


class Compounds(PointEnv):
    def set_task(self, task):
        self.goal = 0.5 * self.goal + task


class LostInCopies(PointEnv):
    def __getstate__(self):
        return {**self.__dict__, "noise": 0.3}

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward + getattr(self, "noise", 0.0), *rest


class Identical(PointEnv):
    def set_task(self, task):
        pass


class Constant(PointEnv):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, -1.0, *rest


class HardlyInformative(PointEnv):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, self.np_random.normal(0, 100) + 0.01 * reward, *rest


class NarrowActions(PointEnv):
    def __init__(self):
        super().__init__()
        self.action_space = spaces.Box(-0.1, 0.1, (2,), np.float32)


class Unseeded(PointEnv):
    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        return observation + np.random.default_rng().normal(size=3).astype(np.float32), info


def family(cls, **kwargs):
    return TaskDistEnv(TimeLimit(cls(), 5), **kwargs)


def overlapping():
    tasks = [np.array([x, y]) for x in (-0.5, 0.5) for y in (-0.5, 0.5)]
    return TaskDistEnv(TimeLimit(PointEnv(), 5), tasks=tasks, set_task=PointEnv.set_task, test_tasks=tasks[:1])


FAULTS = {
    "goal in the observation": (lambda: family(GoalObserved), "task is hidden", "chance 17%"),
    "quadrant in the observation": (lambda: family(GoalOneHot), "task is hidden", "chance 17%"),
    "task lost on reset": (lambda: family(LostOnReset), "task is kept", "after a second reset"),
    "task that compounds": (lambda: family(Compounds), "seeds", "give another episode"),
    "another reward in copies": (lambda: family(LostInCopies), "task is kept", "in a pickled copy"),
    "identical tasks": (lambda: family(Identical), "tasks differ", "not at all"),
    "overlap": (overlapping, "test tasks", "1 of them"),
    "constant reward": (lambda: family(Constant), "reward informs", "all episodes return the same"),
    "noisy reward": (lambda: family(HardlyInformative), "reward informs", "0% of the variance"),
    "clipped actions": (lambda: family(NarrowActions), "actions fit", "9.% of an untrained"),
    "no horizon": (lambda: point(horizon=None), "horizon", "unknown"),
    "no seeds": (lambda: family(Unseeded), "seeds", "give another episode"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault):
    make, check, found = FAULTS[fault]
    problems = {finding.check: finding for finding in check_tasks(make()).problems}
    assert check in problems, str(problems)
    assert re.search(found, problems[check].found), problems[check].found
    assert problems[check].advice


class EndsItself(PointEnv):
    def reset(self, **kwargs):
        self.steps = 0
        return super().reset(**kwargs)

    def step(self, action):
        self.steps += 1
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, self.steps == 5, info


def test_an_environment_that_truncates_itself_has_a_note_and_no_problem():
    report = check_tasks(TaskDistEnv(EndsItself()))
    assert not report.problems, str(report)
    (horizon,) = (finding for finding in report.findings if finding.check == "horizon")
    assert horizon.verdict == "note" and "the longest after 5 steps" in horizon.found


def test_a_sound_environment_has_no_problems():
    report = check_tasks(point())
    assert not report.problems, str(report)
    assert [finding.check for finding in report.findings] == [
        *("horizon", "tasks differ", "task is kept", "task is hidden", "reward informs", "actions fit", "test tasks")
    ]


@pytest.mark.parametrize("env_id", ["Navigation2D-v0", "BernoulliBandit-v0", "TabularMDP-v0", "HalfCheetahDir-v0"])
def test_registered_families_have_no_problems(env_id):
    assert not check_tasks(env_id, n_episodes=3).problems


def test_the_environment_draws_its_own_tasks_afterwards():
    env = point()
    check_tasks(env)
    assert env.get_pinned_task() is None


@pytest.mark.parametrize("argument", ["n_tasks", "n_episodes"])
def test_counts_that_compare_nothing_are_refused(argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be at least 2, .* got 1"):
        check_tasks(point(), **{argument: 1})


def test_the_command_prints_a_table_and_tells_problems_by_its_exit_code(capsys):
    assert main(["--env", "sb3_sgmrl:Navigation2D-v0", "--n-episodes", "2"]) == 0
    out = capsys.readouterr().out
    assert "Tasks of Navigation2D-v0" in out and "ok       horizon         100 steps" in out
    assert main(["--env", "sb3_sgmrl:Navigation2D-v0", "--env-kwargs", "speed"]) == 2
    assert "`--env-kwargs` must have the form name:value, got 'speed'." in capsys.readouterr().err
    assert main(["--env", "Navigation3D-v0"]) == 2
