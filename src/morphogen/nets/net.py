"""What every architecture is: one thing from which training knows where a net begins and ends."""
from __future__ import annotations

from torch import nn


class Net(nn.Module):
    """A whole net, called as net(x, time=, cond=, given=, mask=, cache=) and giving one tensor; losses are made of it outside.

    Put around it from outside: `training.precision`.
    """
