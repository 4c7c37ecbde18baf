"""
Name the random streams.

A sequence of integers, the entropy of a numpy ``SeedSequence``, names a stream. Training draws from
(seed, iteration, ...). An evaluation replaces the iteration by one of the numbers below. Its tasks and episodes therefore
differ from those of every iteration with the same seed.
"""

from __future__ import annotations

# Replace the iteration, which never reaches these numbers.
EVALUATION, ADAPTATION, QUALITY, DIRECTIONS = (2**32 - k for k in range(1, 5))
# Success rates need other episodes than ADAPTATION, to which the policy has adapted.
SUCCESS = 2**32 - 101

# ``reset(seed=s)`` draws its task from a separate stream. The initial state comes from the stream ``s``, and the two must
# not be correlated.
TASK = 0x7A5C

# Seeds of the commands. Evaluations during training choose the best model, so the final report uses other tasks. Seeds of
# runs are below 2**32.
EVAL_SEED, REPORT_SEED = 2**40, 2**40 + 1
