import os
import time


def worker(request):
    """For the foot of every page: which worker answered, and how long it took."""
    return {
        "worker": os.getpid(),
        # Called by the template, so it includes the time up to that line.
        "took": lambda: f"{time.monotonic() - request.arrived:.2f}",
    }
