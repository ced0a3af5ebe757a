"""What an experiment says: the verdict in a sentence, the numbers behind it, and how they went."""

import os
from functools import partial
from typing import Any

from litestar import Request, get
from litestar.params import FromPath

from service.experiments.reporting import answer, tell
from service.experiments.verdicts import apart
from service.parts import Parts
from service.setup import database_url
from service.storage.database import Database


@get("/v1/experiments/{name:str}/report", tags=["experiments"], summary="What an experiment says")
async def experiment_report(request: Request[Any, Any, Any], name: FromPath[str]) -> dict[str, Any]:
    """The verdict in a sentence; variants, differences with intervals, guardrails; every look since the start."""
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "read")
    url = database_url(parts.setup.settings.database, os.environ)
    return await apart(url, partial(_answered, name=name))


async def _answered(database: Database, name: str) -> dict[str, Any]:
    return answer(await tell(database, name))
