"""
The names of random streams. A stream is named by a sequence of integers, the entropy of a numpy ``SeedSequence``.

Training draws from (seed, iteration, ...). An evaluation puts one of the numbers below in place of the iteration, so that its
tasks and episodes are not those of an iteration with the same seed.
"""

from __future__ import annotations

# In place of the iteration, which never reaches these numbers.
EVALUATION, ADAPTATION, QUALITY, DIRECTIONS = (2**32 - k for k in range(1, 5))
# Episodes that measure success rates: not those of ADAPTATION, which the policy was adapted to.
SUCCESS = 2**32 - 101

# ``reset(seed=s)`` draws its task from a stream of its own: the initial state is drawn from the stream named ``s``, and
# the two must not be correlated.
TASK = 0x7A5C

# Seeds of the commands. Evaluations during training choose the best model, so the final report is on other tasks. Seeds of
# runs are below 2**32.
EVAL_SEED, REPORT_SEED = 2**40, 2**40 + 1
