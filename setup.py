"""The long description for the package index: README.md with absolute links. Everything else is in pyproject.toml."""

import pathlib
import re

from setuptools import setup

ROOT = pathlib.Path(__file__).parent


def with_absolute_links(text: str, homepage: str) -> str:
    """
    Make the links and pictures of a page work outside its repository.

    :param text: The page, Markdown
    :param homepage: The address of the repository
    :return: The page with absolute links
    """
    pictures = homepage.replace("https://github.com", "https://raw.githubusercontent.com")
    text = re.sub(r"(!\[[^\]]*\]\()(?!https?:)([^)#\s]+\))", rf"\1{pictures}/main/\2", text)
    return re.sub(r"(?<!!)(\[[^\[\]]*\]\()(?!https?:|#)([^)\s]+\))", rf"\1{homepage}/blob/main/\2", text)


if __name__ == "__main__":
    (address,) = re.findall(r'^Homepage = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    setup(long_description=with_absolute_links(page, address), long_description_content_type="text/markdown")
