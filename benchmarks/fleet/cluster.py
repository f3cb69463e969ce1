"""Where a fleet's hosts come from: this box, a Dask scheduler that runs already, or hosts reached through SSH."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from ..record import ROOT

# no profiler and no memory monitor in the process that waits for a timing
SETTINGS = {"distributed.worker.profile.enabled": False}
WORKER: dict[str, Any] = {"nthreads": 1, "resources": {"slot": 1}, "memory_limit": 0}


def connect(stack: contextlib.ExitStack, local: int | None, address: str | None, hostfile: str | None) -> Any:
    """A client of one of these three. What was begun for it ends with ``stack``.

    Raises ImportError where Dask distributed or asyncssh is missing, ValueError for a file without hosts or
    for an address that cannot be one, OSError where no scheduler answers or a host could not be begun.
    """
    import dask.config
    import distributed

    if address and not re.fullmatch(r"\w+://\S+:\d+", address):
        raise ValueError(f"--scheduler must look like tcp://host:8786, got {address!r}")
    known = distributed.Security().get_connection_args("client")
    if address and address.startswith("tls:") and not known.get("ssl_context"):
        raise ValueError(f"{address} needs certificates in Dask's configuration, under distributed.comm.tls")
    ssh = _ssh(Path(hostfile)) if hostfile else None
    for library in ("distributed", "asyncssh"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    stack.enter_context(dask.config.set(SETTINGS))
    where: Any = address
    try:
        if local:
            where = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=local,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    memory_limit=0,
                    resources=WORKER["resources"],
                    dashboard_address="127.0.0.1:0",
                    worker_dashboard_address=None,
                    silence_logs=logging.CRITICAL,
                )
            )
        elif ssh:
            import asyncssh  # noqa: F401  before the cluster fails for want of it, with a long trace

            where = stack.enter_context(distributed.SSHCluster(**ssh))
        return stack.enter_context(distributed.Client(where, set_as_default=False))
    except (OSError, RuntimeError) as error:
        raise OSError(f"{address or hostfile or 'this box'}: {error}") from error


def _ssh(path: Path) -> dict[str, Any]:
    """The arguments of SSHCluster for a file with a host a line: ``[user@]host[:port] [folder of its checkout]``.

    The folder, by default this one's, must hold ``.venv``. The first host also runs the scheduler.
    """
    hosts: list[str] = []
    options: list[dict[str, Any]] = []
    pythons: list[str] = []
    for row in path.read_text(encoding="utf-8").splitlines():
        words = row.partition("#")[0].split()
        if not words:
            continue
        user, _, host = words[0].rpartition("@")
        name, _, port = host.partition(":")
        if len(words) > 2 or not name or (port and not port.isdigit()):
            raise ValueError(f"{path}: must be [user@]host[:port] [folder], got {row.strip()!r}")
        hosts.append(name)
        options.append({k: v for k, v in (("username", user), ("port", int(port or 0))) if v})
        folder = words[1] if len(words) == 2 else str(ROOT)
        python = f"{folder}/.venv/bin/python" if len(words) == 2 else sys.executable
        found = os.pathsep.join([folder, f"{folder}/kernels"])
        pythons.append(f"PYTHONPATH={shlex.quote(found)} {shlex.quote(python)}")  # after env, in front of -m
    if not hosts:
        raise ValueError(f"{path}: lists no host")
    return {
        "hosts": [hosts[0], *hosts],
        "connect_options": [options[0], *options],
        "remote_python": [pythons[0], *pythons],
        "worker_options": WORKER,
        "scheduler_options": {"port": 0, "dashboard_address": ":0", "dashboard": False},
    }
