"""
What the README and the documentation tell a user to type is run.

A comment before a block says what the tests do with it. Python blocks are run; after
``<!-- one meta-iteration is enough for the tests -->`` they learn for one, after ``<!-- needs PACKAGE -->`` they are run where
it is installed, and after ``<!-- tests: not run, REASON -->`` they are only compiled. A bash block needs one of

- ``<!-- tests: run -->``: run as written by the default suite; for seconds
- ``<!-- tests: slow -->``: run as written by ``pytest -m slow``; for minutes
- ``<!-- tests: run with ARGUMENTS -->``, ``<!-- tests: slow with ARGUMENTS -->``: every ``python`` in the block gets these
  arguments after its own; for what takes longer
- ``<!-- tests: not run, REASON -->``: installations, and what waits for a user

Of each command, also of those inside of lines of text, the default suite checks that its program accepts its arguments.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
from paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]
# optional comment before the block; blocks may be indented in lists
BLOCK = re.compile(
    r"(?:^ *<!-- (?P<tag>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<code>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
SHORT = "one meta-iteration is enough for the tests"
TEST_COMMAND = "test command: .ci/run executes the block below"
RULE = re.compile(r"tests: (?:(?P<when>run|slow)(?: with (?P<arguments>.+))?|not run, .+)")
LANGUAGES = re.compile(r"python|bash|yaml|text|bibtex|\{.*")
# what needs no check of ours
OTHER_PROGRAMS = {"python3", ".", "tensorboard", "torchrun"}


def blocks(page, language):
    """(tag, code) of the code blocks of a page."""
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if match["language"] == language:
            yield match["tag"], re.sub(f"^{match['indent']}", "", match["code"], flags=re.MULTILINE)


def name(page):
    return str(page.relative_to(ROOT))


def pages(condition=lambda page: True):
    return [pytest.param(page, id=name(page)) for page in PAGES if condition(page)]


def run_rules(page):
    """The rules of a page's bash blocks that are run, and the blocks."""
    rules = [(RULE.fullmatch(tag or ""), code) for tag, code in blocks(page, "bash")]
    return [(rule, code) for rule, code in rules if rule and rule["when"]]


# ---------------------------------------------------------------- width


@pytest.mark.parametrize("page", pages())
def test_code_is_wrapped(page):
    code = [block for language in ("python", "bash") for tag, block in blocks(page, language) if not is_one_line(tag)]
    # a value that no shell or Python can break may be longer
    long = [line for block in code for line in block.splitlines() if len(line) > 88 and max(map(len, line.split())) < 70]
    assert not long, f"{name(page)} has lines of more than 88 characters: {long}"


def is_one_line(tag):
    """Installations are one line to copy."""
    return tag in (TEST_COMMAND, "tests: not run, it installs")


# ---------------------------------------------------------------- Python


@pytest.mark.parametrize("page", pages(lambda page: any(blocks(page, "python"))))
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "a_page_of_the_documentation"}
    for i, (tag, code) in enumerate(blocks(page, "python")):
        if tag == SHORT:
            code, n = re.subn(r"learn\(\s*(total_timesteps=)?[\d_]+", r"learn(\g<1>1", code)
            assert n > 0, f"{page} has a tag but nothing to shorten in\n{code}"
        compiled = compile(code, f"{page.name}, block {i}", "exec")
        needed = re.fullmatch(r"needs (\w+)", tag or "")
        if not (tag or "").startswith("tests: not run, ") and (needed is None or find_spec(needed[1])):
            exec(compiled, namespace)


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize("page", pages())
def test_every_command_says_how_it_is_tested(page):
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        assert LANGUAGES.fullmatch(match["language"]), f"{page}: ```{match['language']}"
    for tag, code in blocks(page, "bash"):
        assert tag == TEST_COMMAND or RULE.fullmatch(tag or ""), f"{page}: no rule, see {__file__}, before\n{code}"


def commands(page):
    """Single commands of a page as lists of words, from its bash blocks and from `python …` in its text."""
    text = page.read_text(encoding="utf-8")
    code = [code.replace("\\\n", " ") for _, code in blocks(page, "bash")]
    inline = re.findall(r"`(python [^`]+)`", " ".join(BLOCK.sub("", text).split()))
    for line in "\n".join([*code, *inline]).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
        lexer.whitespace_split = True
        words = list(lexer)
        while words:
            end = next((i for i, word in enumerate(words) if set(word) <= set(";|&")), len(words))
            command, words = words[:end], words[end + 1 :]
            while command and re.fullmatch(r"\w+=.*", command[0]):  # variables of the environment
                command = command[1:]
            if command:
                yield command


def problem_of_other_command(words):
    """What is wrong with a command that is not a program of ours, None when nothing is."""
    if words[0] == "python":
        paths = [word.split("::")[0] for word in words[3:] if word.startswith("tests")]
        return None if all((ROOT / path).exists() for path in paths) else "there is no such file"
    if words[0] == "pip":
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        extras = [extra for word in words for extra in re.findall(r"^\.\[(.*)\]$", word) for extra in extra.split(",")]
        return None if all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras) else "no such extra"
    if words[0] == "make":
        return None if re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE) else "no such target"
    return None if words[0] in OTHER_PROGRAMS or (ROOT / words[0]).is_file() else "not known to the tests"


def test_commands_exist():
    """One process parses all: it takes seconds to import what they need."""
    found = [(page, words) for page in PAGES for words in commands(page)]
    ours = [words[0] == "python" and words[1:3] != ["-m", "pytest"] for _, words in found]
    parsed = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "docs" / "parse_arguments.py")],
        input=json.dumps([words[1:] for (_, words), is_ours in zip(found, ours, strict=True) if is_ours]),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    problems = iter(json.loads(parsed.stdout))
    wrong = []
    for (page, words), is_ours in zip(found, ours, strict=True):
        problem = next(problems) if is_ours else problem_of_other_command(words)
        if problem is not None:
            wrong.append(f"{name(page)}: {shlex.join(words)}: {problem}")
    assert not wrong, "\n".join(wrong)
    assert sum(ours) > 10


@pytest.mark.parametrize(
    "path", [*PAGES, ROOT / "Makefile", ROOT / ".ci" / "metaworld", ROOT / ".github" / "workflows" / "ci.yml"], ids=name
)
def test_files_of_tests_are_where_they_are_said_to_be(path):
    named = set(re.findall(r"\btests/[\w/]+\.py", path.read_text(encoding="utf-8")))
    assert not {file for file in named if not (ROOT / file).exists()}


def environment():
    """The commands find this checkout, and the Python of the tests."""
    paths = {"PATH": str(pathlib.Path(sys.executable).parent), "PYTHONPATH": str(ROOT)}
    joined = {key: os.pathsep.join(filter(None, [value, os.environ.get(key)])) for key, value in paths.items()}
    return {**os.environ, **joined, "PYTHONIOENCODING": "utf-8"}


def run_blocks(page, folder, when):
    """The blocks of a page in their order in one folder, which looks like the repository's."""
    for path in ("examples", "tests", "Makefile", "pyproject.toml", "README.md"):
        (folder / path).symlink_to(ROOT / path)
    # where commands write pictures
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("_build"))
    for rule, code in run_rules(page):
        if rule["when"] in when:
            longer = f'python() {{ command python "$@" {rule["arguments"]}; }}\n' if rule["arguments"] else ""
            script = ["bash", "-euo", "pipefail", "-c", longer + code]
            done = subprocess.run(script, cwd=folder, env=environment(), capture_output=True, encoding="utf-8")
            assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr, f"{code}\n{done.stderr}"


@pytest.mark.parametrize("page", pages(lambda page: any(rule["when"] == "run" for rule, _ in run_rules(page))))
def test_quick_commands_run(page, tmp_path):
    run_blocks(page, tmp_path, {"run"})


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("page", pages(lambda page: any(rule["when"] == "slow" for rule, _ in run_rules(page))))
def test_slow_commands_run(page, tmp_path):
    run_blocks(page, tmp_path, {"run", "slow"})


# ---------------------------------------------------------------- links


@pytest.mark.parametrize("page", pages())
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), f"{page}: {target}"


def test_ci_runs_the_test_command_of_the_readme():
    marked = [code for tag, code in blocks(ROOT / "README.md", "bash") if tag == TEST_COMMAND]
    assert len(marked) == 1 and "pytest" in marked[0] and "venv" in marked[0]
    script = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in script
    assert "pytest" not in script  # nothing but what the README says


def test_algorithm_pages_list_what_users_call():
    """With the option for inherited members, Sphinx ignores the list of members and shows all methods."""
    for page in (ROOT / "docs" / "modules").glob("*.md"):
        assert ":inherited-members:" not in page.read_text(encoding="utf-8"), name(page)
