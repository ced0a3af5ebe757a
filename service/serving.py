"""Running the service under uvicorn: one process, or several that share a port."""

import os
import socket
import sys
from pathlib import Path
from typing import Any

import click

from service.errors import ConfigurationError
from service.logs import configure_logging
from service.metrics.multiprocess import prepare_multiprocess
from service.settings import Settings
from service.setup import database_url
from service.storage.database import migrate
from service.tracing.tracing import mistakes_of


def serve(settings: Settings, config: Path | None, *, host: str | None, port: int | None, workers: int | None) -> None:
    """Serve until stopped. `host`, `port` and `workers` win over the settings."""
    host, port = host or settings.server.host, port or settings.server.port
    workers = workers or settings.server.workers
    configure_logging(settings)
    if mistakes := mistakes_of(settings.tracing, os.environ):
        raise ConfigurationError(mistakes)
    listening = listen(host, port)
    try:
        migrate(database_url(settings.database, os.environ))
    except BaseException:
        listening.close()
        raise
    if workers > 1:
        prepare_multiprocess()  # before prometheus_client is imported, here and in the workers
    if config is not None:
        os.environ["ARMWISE_CONFIG"] = str(config.resolve())
    import uvicorn  # noqa: PLC0415 - after the environment is set

    arguments: dict[str, Any] = {
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,  # who is local must not be told by a header
        "date_header": False,
        "timeout_graceful_shutdown": round(settings.server.drain_s),
        "timeout_keep_alive": 75,
    }
    address = f"[{host}]" if ":" in host else host
    models = ", ".join(model.name for model in settings.models if model.enabled)
    kind = "simulated models" if settings.simulated_only else "models"
    click.echo(
        f"Armwise serves {kind} {models} on http://{address}:{port} - API pages: http://{address}:{port}/docs", err=True
    )
    if workers == 1:
        from service.app import create_app  # noqa: PLC0415 - after the environment is set

        uvicorn.Server(uvicorn.Config(create_app(settings, config), **arguments)).run(sockets=[listening])
        return
    from service.supervisor import Supervisor  # noqa: PLC0415 - only with several workers

    app = "service.app:app_from_environment"
    configured = uvicorn.Config(app, factory=True, workers=workers, **arguments)
    Supervisor(configured, sockets=[listening]).run()


def listen(host: str, port: int) -> socket.socket:
    """A socket on host and port, or a clear sentence and the end."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, proto)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        taken = f"Port {port} on {host} is taken. Stop the other program, or choose another port with --port."
        other = f"Cannot listen on {host} port {port}: {error.strerror or error}."
        click.echo(f"armwise: {taken if error.errno == 98 else other}", err=True)
        sys.exit(1)
    listening.set_inheritable(True)
    return listening
