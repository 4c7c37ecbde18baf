"""Where things are."""

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
FILES = Path(__file__).parent / "files"
# Unpickles arrays of NumPy 2, whose modules have other names.
needs_numpy_2 = pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="format_0.zip is from NumPy 2")
