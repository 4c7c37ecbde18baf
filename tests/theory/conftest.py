"""The policy whose meta-gradients are enumerated."""

from exact_tools import policy  # noqa: F401
