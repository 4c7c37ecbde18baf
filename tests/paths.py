"""Where things are."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
FILES = Path(__file__).parent / "files"
