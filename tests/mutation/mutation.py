"""
Mutation testing of the pure rooms.

Each mutant changes one operator, comparison, constant, condition or return. The tests of the changed file run.

    python tests/mutation/mutation.py --sample 150 --seed 0 --report mutants.csv

The files are changed in a copy of the repository. A mutant is killed when its tests fail or take too long.
The report is
written as the mutants run: the same command resumes, and ``--again`` repeats the survivors with the tests as they are now.
``tests/mutation/survivors.md`` lists survivors that no test can notice.
"""

from __future__ import annotations

import argparse
import ast
import copy
import csv
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import stable_baselines3.common.vec_env  # noqa: F401
import torch  # noqa: F401

ROOT = Path(__file__).parents[2]
# the tests of each file, quick ones first
TESTS: dict[str, list[str]] = {
    "gradient/advantages.py": ["tests/gradient/test_advantages.py", "tests/gradient/test_invariance.py"],
    "gradient/baselines.py": ["tests/gradient/test_advantages.py", "tests/score_terms/test_refitted.py", "tests/outer_steps"],
    "gradient/fisher.py": ["tests/gradient/test_fisher.py"],
    "gradient/critic.py": ["tests/gradient/test_critic.py", "tests/test_algorithms.py"],
    "gradient/discounting.py": ["tests/gradient/test_advantages.py"],
    "gradient/inner.py": [
        "tests/gradient/test_inner.py",
        "tests/gradient/test_adapted_parameters.py",
        "tests/gradient/test_meta_gradient.py",
        "tests/outer_steps",
    ],
    "gradient/local_gradient.py": ["tests/gradient/test_local_gradient.py", "tests/outer_steps"],
    "gradient/memory.py": ["tests/gradient/test_memory.py"],
    "gradient/meta_gradient.py": [
        "tests/gradient/test_meta_gradient.py",
        "tests/test_meta_gradients_of_algorithms.py",
        "tests/gradient/test_step_sizes.py",
    ],
    "gradient/objective.py": ["tests/gradient/test_meta_gradient.py", "tests/test_meta_gradients_of_algorithms.py"],
    "gradient/on_policy.py": ["tests/gradient/test_on_policy.py", "tests/deployment/test_logged_episodes.py"],
    "gradient/score_weight.py": ["tests/gradient/test_score_weight.py", "tests/test_meta_gradients_of_algorithms.py"],
    "gradient/step_sizes.py": ["tests/gradient/test_step_sizes.py"],
    "score_terms/base.py": ["tests/bad_input/test_bad_settings.py", "tests/outer_steps"],
    "score_terms/control_variates.py": ["tests/score_terms/test_control_variates.py", "tests/score_terms/test_returns.py"],
    "score_terms/counterfactual.py": ["tests/score_terms/test_counterfactual.py"],
    "score_terms/leave_one_out.py": [
        "tests/score_terms/test_returns.py",
        "tests/score_terms/test_refitted.py",
        "tests/gradient/test_advantages.py",
        "tests/gradient/test_invariance.py",
    ],
    "score_terms/names.py": ["tests/test_meta_gradients_of_algorithms.py"],
    "score_terms/refitted.py": ["tests/score_terms/test_refitted.py"],
    "score_terms/returns.py": ["tests/score_terms/test_returns.py", "tests/test_meta_gradients_of_algorithms.py"],
    "data/batch.py": [
        "tests/data/test_batch.py",
        "tests/gradient/test_advantages.py",
        "tests/deployment/test_logged_episodes.py",
        "tests/common/test_adapt.py",
    ],
    "data/buffers.py": ["tests/data/test_buffers.py", "tests/common/test_sampling.py"],
    "data/episodes.py": ["tests/deployment/test_logged_episodes.py"],
    "data/spaces.py": ["tests/data/test_spaces.py"],
    "data/streams.py": ["tests/data/test_streams.py"],
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


def mutated(node: ast.AST) -> ast.AST | None:
    """
    Change a node.

    :param node: A node of a syntax tree
    :return: A copy of the node with one change; None where there is nothing to change
    """
    node = copy.deepcopy(node)
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in OPERATORS:
        node.op = OPERATORS[type(node.op)]()
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        node.ops[0] = COMPARISONS[type(node.ops[0])]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        return node.operand
    elif isinstance(node, ast.IfExp):
        node.body, node.orelse = node.orelse, node.body
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        node.value = not node.value
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        node.value += 1
    elif isinstance(node, ast.Return) and node.value is not None:
        node.value = ast.Constant(None)
    else:
        return None
    return node


def outside_annotations(tree: ast.AST) -> Iterator[ast.AST]:
    """
    Walk through the nodes that are executed.

    :param tree: The tree of a module
    :return: The nodes in a fixed order
    """
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST):
                yield node
                yield from outside_annotations(node)


def replace_source(source: str, node: ast.AST, new: ast.AST) -> str:
    """
    Replace one node in the source.

    :param source: The source of a module
    :param node: A node of its tree
    :param new: The node that takes its place
    :return: The source with the change
    """
    lines = source.encode().splitlines(keepends=True)
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
    text = ast.unparse(ast.fix_missing_locations(new))
    if isinstance(new, ast.expr):
        text = f"({text})"
    whole = source.encode()
    return (whole[:start] + text.encode() + whole[end:]).decode()


def mutants(path: Path) -> list[tuple[int, str, str, str]]:
    """
    Make all mutants of a module.

    :param path: The path of the module
    :return: The line, the old text, the new text and the changed source of each mutant
    """
    source = path.read_text()
    found = []
    for node in outside_annotations(ast.parse(source)):
        new = mutated(node)
        if new is None:
            continue
        old, text = ast.unparse(node), ast.unparse(ast.fix_missing_locations(new))
        if text != old:  # `return None` has no mutant
            found.append((node.lineno, old, text, replace_source(source, node, new)))
    return found


def outcome(folder: Path, tests: list[str], timeout: float) -> str:
    """
    Run tests in a process that has imported the libraries before.

    :param folder: The copy of the repository
    :param tests: The paths of the tests in it
    :param timeout: The seconds of processor time after which the process is ended
    :return: ``survived`` when all tests have passed, ``killed`` or ``timed out``
    """
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, timeout)
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = str(folder)  # for processes that the tests start
        sys.dont_write_bytecode = True
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        os._exit(int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests])))
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
        return "timed out"
    return "survived" if status == 0 else "killed"


def outcomes_so_far(report: Path | None, chosen: list[tuple[str, int, str, str, str]], again: bool) -> dict[int, str]:
    """
    Read what became of the mutants of a sample.

    :param report: The path of a report; it may not exist
    :param chosen: The mutants of the sample
    :param again: Whether to leave out survivors, so that they run again
    :return: The outcome of each mutant that has run, by its number in the sample
    """
    if report is None or not report.exists():
        return {}
    with report.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    for row in rows:
        file, line, old, new, _ = chosen[int(row["number"])]
        if (file, str(line), old, new) != (row["file"], row["line"], row["old"], row["new"]):
            sys.exit(f"{report} belongs to another sample or to another state of the code.")
    return {int(row["number"]): row["outcome"] for row in rows if not (again and row["outcome"] == "survived")}


def main() -> int:
    """
    Run the command.

    :return: The number of survivors, as exit code
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=150, help="The number of mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="The seed of the draw")
    parser.add_argument("--only", nargs="+", default=[""], help="Only files whose name contains one of these")
    parser.add_argument("--timeout", type=float, default=120.0, help="The most processor seconds for the tests of a mutant")
    parser.add_argument("--report", type=Path, default=None, help="A CSV file of what became of the mutants, to resume from")
    parser.add_argument("--again", action="store_true", help="Run the survivors in the report again")
    parser.add_argument("--unchecked", action="store_true", help="Skip the check that the tests pass without a change")
    arguments = parser.parse_args()
    every = [
        (file, *mutant)
        for file in TESTS
        if any(part in file for part in arguments.only)
        for mutant in mutants(ROOT / "sb3_sgmrl" / file)
    ]
    # all are shuffled, so that a larger sample begins with the smaller one
    chosen = random.Random(arguments.seed).sample(every, len(every))[: arguments.sample]
    outcomes = outcomes_so_far(arguments.report, chosen, arguments.again)
    todo = [number for number in range(len(chosen)) if number not in outcomes]
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "repository"
        ignored = shutil.ignore_patterns(".git", "__pycache__", "*_cache", "docs", "logs")
        shutil.copytree(ROOT, copied, ignore=ignored)
        passed: set[str] = set()
        for number in todo:
            file, line, old, new, source = chosen[number]
            for tests in [] if arguments.unchecked else [tests for tests in TESTS[file] if tests not in passed]:
                if outcome(copied, [tests], arguments.timeout) != "survived":
                    sys.exit(f"{tests} must pass without a change.")
                passed.add(tests)
                print(f"{tests} passes after {resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime:.0f} s", flush=True)
            path = copied / "sb3_sgmrl" / file
            original = path.read_text()
            path.write_text(source)
            outcomes[number] = outcome(copied, TESTS[file], arguments.timeout)
            path.write_text(original)
            print(f"{len(outcomes)}/{len(chosen)}", file, line, old, new, outcomes[number], sep=" | ", flush=True)
            if arguments.report is not None:
                with arguments.report.open("w", newline="") as out:
                    rows = [(i, *chosen[i][:4], outcomes[i]) for i in sorted(outcomes)]
                    csv.writer(out).writerows([("number", "file", "line", "old", "new", "outcome"), *rows])
    n_survivors = list(outcomes.values()).count("survived")
    print(f"{len(chosen)} of {len(every)} mutants, {len(chosen) - n_survivors} killed or timed out")
    return min(n_survivors, 100)


if __name__ == "__main__":
    sys.exit(main())
