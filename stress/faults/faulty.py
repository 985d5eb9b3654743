"""Unrolling, with jobs of a sweep that raise, kill themselves or take all memory."""

import os
import resource
import signal
from pathlib import Path

import numpy as np

from bmo_cli.hyper.aggregation import Unrolled

FAULTS = {3: "raise", 7: "raise", 11: "raise", 5: "kill", 17: "kill", 20: "memory"}


class Faulty(Unrolled):
    """As `Unrolled`, but for some jobs, and only where there is no file called `mended`."""

    def __init__(self, *, job=0, memory="auto", memory_mib=None):
        super().__init__(memory=memory, memory_mib=memory_mib)
        self.fault = None if Path("mended").exists() else FAULTS.get(job)

    def objective(self, scheme, sample, iterations):
        """What fails does so in the first step."""
        if self.fault == "raise":
            raise ZeroDivisionError("on purpose")
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "memory":
            resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
            np.ones(2**40)
        return super().objective(scheme, sample, iterations)
