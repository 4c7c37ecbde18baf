"""``python -m sb3_sgmrl.convert``, see :mod:`sb3_sgmrl.cli.convert`."""

import sys

from sb3_sgmrl.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
