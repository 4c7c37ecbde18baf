"""
Parse the arguments of programs without running them.

Reads a JSON list of argument lists as they follow ``python``, such as ``["-m", "sb3_sgmrl.train", "-n", "1"]``, and writes the
list of what is wrong with each: a text, or null. A program is stopped when its parser has accepted its arguments. It runs in a
process of its own, because programs import what they like.
"""

import argparse
import contextlib
import io
import json
import pathlib
import runpy
import sys
import warnings


class Parsed(BaseException):
    """Raised in the place of running on; no program catches it."""


_parse_args = argparse.ArgumentParser.parse_args


def parse_and_stop(parser, args=None, namespace=None):
    _parse_args(parser, args, namespace)
    raise Parsed


def problem(words):
    """What is wrong with the arguments, None when nothing is."""
    is_module = words[0] == "-m"
    program, arguments = (words[1], words[2:]) if is_module else (words[0], words[1:])
    if not is_module:
        if not pathlib.Path(program).exists():
            return "there is no such file"
        if "argparse" not in pathlib.Path(program).read_text(encoding="utf-8"):
            return "it takes no arguments" if arguments else None
        sys.path[0] = str(pathlib.Path(program).parent)
    sys.argv = [program, *arguments]
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if is_module:
                runpy.run_module(program, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(program, run_name="__main__")
    except Parsed:
        return None
    except SystemExit as stop:
        return None if not stop.code else output.getvalue().strip().splitlines()[-1]
    except ImportError as error:
        return str(error)
    return "it ended without parsing its arguments"


if __name__ == "__main__":
    argparse.ArgumentParser.parse_args = parse_and_stop
    commands = json.load(sys.stdin)
    results = [problem(words) for words in commands]
    json.dump(results, sys.stdout)
