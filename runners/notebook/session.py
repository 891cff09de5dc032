"""The process of the kernel, and the directory of its sockets and connection file."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from runners.notebook.end import Exit, NotebookFailed
from runners.notebook.kernels import Kernel

SOCKET_PATH_BYTES = 107
KERNEL_NICENESS = 10  # only within the job, where control groups share out the processors


class Session:
    """The directory of the kernel's sockets and connection file, and the kernel's process."""

    def __init__(self) -> None:
        self._directory = ""
        self._km: Any = None

    def __enter__(self) -> Self:
        temporary = tempfile.gettempdir()
        longest = len("/jupyter-12345678/kernel-ipc-5")
        for base in dict.fromkeys((temporary, "/tmp")):  # mkdtemp makes it ours alone
            self._ipc = len(os.fsencode(base)) + longest <= SOCKET_PATH_BYTES
            if self._ipc:
                with suppress(OSError):
                    self._directory = tempfile.mkdtemp(prefix="jupyter-", dir=base)
                    break
        else:
            self._ipc = False
            self._directory = tempfile.mkdtemp(prefix="jupyter-")
        os.environ["JUPYTER_RUNTIME_DIR"] = self._directory
        os.environ.setdefault("HOME", temporary)
        for name, folder in (
            ("IPYTHONDIR", "ipython"),
            ("MPLCONFIGDIR", "matplotlib"),
            ("JUPYTER_CONFIG_DIR", "jupyter/config"),
            ("JUPYTER_DATA_DIR", "jupyter/data"),
        ):
            os.environ.setdefault(name, str(Path(temporary) / folder))
        os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")  # jupyter_core warns where it is not set
        os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # so does ipykernel's debugger
        return self

    def launch(self, kernel: Kernel) -> Any:
        """Start the kernel's process, without waiting for it.

        :raises NotebookFailed: it cannot be started.
        """
        from jupyter_client.manager import AsyncKernelManager
        from jupyter_core.utils import run_sync

        transport = "ipc" if self._ipc else "tcp"
        file = str(Path(self._directory) / "kernel.json")
        km = AsyncKernelManager(kernel_name=kernel.name, transport=transport, connection_file=file)
        extra = ["--HistoryManager.hist_file=:memory:"] if km.ipykernel else []

        async def start() -> None:
            await km.start_kernel(extra_arguments=extra)

        self._km = km
        try:
            run_sync(start)()
        except (OSError, RuntimeError) as error:
            message = f"The kernel {kernel.name!r} cannot be started: {error}"
            raise NotebookFailed(Exit.KERNEL_START, message) from error
        pid = getattr(km.provisioner, "pid", None)
        if pid:  # a fork bomb must leave us the time to end it and to save
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, pid, KERNEL_NICENESS)
        return km

    def __exit__(self, *_error: object) -> None:
        if self._km is not None and self._km.has_kernel:
            from jupyter_core.utils import run_sync

            async def end() -> None:
                await self._km.shutdown_kernel(now=True)

            with suppress(RuntimeError, OSError):
                run_sync(end)()
        shutil.rmtree(self._directory, ignore_errors=True)
