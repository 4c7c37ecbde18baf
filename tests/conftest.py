"""Torch in one thread, in the process itself: the tests compute little, and threads would only wait for each other."""

import torch as th

th.set_num_threads(1)
