"""Several worker processes: uvicorn's supervisor, with SIGHUP meaning what it means for one process."""

import os
import signal

from uvicorn.supervisors import Multiprocess


class Supervisor(Multiprocess):
    """Hands SIGHUP on to the workers, which read the settings again; uvicorn's own would restart them."""

    def handle_hup(self) -> None:
        """Tell every worker."""
        for process in self.processes:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)
