"""Settings of all tests."""

import torch

# The networks here are so small that a second thread costs more than it gives, and far more on a busy machine.
torch.set_num_threads(1)
