"""What the README and the documentation tell a person to type is run: Python entirely, commands as far as their options go."""

import importlib.util
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# optional comment before the block; blocks may be indented in lists
BLOCK = re.compile(
    r"(?:<!-- (?P<tag>[^>]*) -->\n)?^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^ *```$", re.DOTALL | re.MULTILINE
)
SHORT = "one meta-iteration is enough for the tests"


def blocks(page, language):
    """The code blocks of a page whose packages are installed, those that train long made short."""
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if match["language"] != language:
            continue
        needed = re.fullmatch(r"needs (\w+)", match["tag"] or "")
        if needed and importlib.util.find_spec(needed[1]) is None:
            continue
        code = re.sub(f"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
        if match["tag"] == SHORT:
            code, n = re.subn(r"learn\((total_timesteps=)?[\d_]+", r"learn(\g<1>1", code)
            assert n > 0, f"{page} has a tag but nothing to shorten in\n{code}"
        yield code


def pages_with(language):
    pages = [page for page in PAGES if any(True for _ in blocks(page, language))]
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "a_page_of_the_documentation"}
    for i, code in enumerate(blocks(page, "python")):
        exec(compile(code, f"{page.name}, block {i}", "exec"), namespace)


def commands(page):
    """Single commands of a page's shell blocks, comments and continuation lines resolved, as lists of words."""
    for code in blocks(page, "bash"):
        for line in code.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words:
                    yield words


@pytest.fixture(scope="module")
def known_options():
    """Options of the modules that are run by ``python -m``, from their help; in a process, as RL Zoo patches Gymnasium."""
    found = {}

    def options(module):
        if module not in found:
            shown = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
            found[module] = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", shown.stdout))
        return found[module]

    return options


@pytest.mark.parametrize("page", pages_with("bash"))
def test_commands_exist(page, known_options):
    for words in commands(page):
        if words[:2] == ["python", "-m"] and words[2].startswith("sb3_sgmrl."):
            given = {word.split("=")[0] for word in words[3:] if re.match("--?[a-zA-Z]", word)}
            assert given <= known_options(words[2]), f"{page}: {' '.join(words)}"
        elif words[:3] == ["python", "-m", "pytest"]:
            paths = [word for word in words[3:] if word.startswith("tests")]
            assert all((ROOT / path.split("::")[0]).exists() for path in paths), f"{page}: {' '.join(words)}"
        elif words[0] == "python":
            assert (ROOT / words[1]).exists(), f"{page}: {' '.join(words)}"
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{page}: {' '.join(words)}"
        else:
            assert words[0] in ("pip", "python3", ".", "tensorboard"), f"{page}: {' '.join(words)}"


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), f"{page}: {target}"


def test_ci_runs_the_test_command_of_the_readme():
    marked = [match["code"] for match in BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8")) if match["tag"]]
    assert sum("pytest" in code and "venv" in code for code in marked) == 1
    script = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in script
    assert "pytest" not in script  # nothing but what the README says
