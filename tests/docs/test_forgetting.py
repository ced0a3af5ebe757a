"""What docs/security.md says on forgetting a user: its own statements, on SQLite and Postgres."""

import re
from pathlib import Path

import aiohttp
import pytest
from sqlalchemy import inspect, text

from tests.api.asking import ask
from tests.api.conftest import Running, settings_for

PAGE = (Path(__file__).parents[2] / "docs/security.md").read_text(encoding="utf-8")
STATEMENTS = [one for one in re.search(r"```sql\n(.*?)```", PAGE, re.DOTALL)[1].split(";\n") if one]


def left_of(connection, user):
    """Tables in which a user is still named."""
    found = []
    for table in inspect(connection).get_table_names():
        rows = connection.execute(text(f'SELECT * FROM "{table}"')).all()  # noqa: S608 - our own tables
        if any(user in str(row) for row in rows):
            found.append(table)
    return found


async def test_nothing_of_the_user_is_left_and_the_service_goes_on(database_url, database):
    with Running(settings_for(database_url)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            reply = await ask(http, router={"user": "u-42"})
            other = await ask(http, router={"user": "u-43"})
            for asked, user in ((reply, "u-42"), (other, "u-43")):
                given = {"decision_id": asked["id"], "value": True, "user": user, "comment": "thanks"}
                async with http.post("/feedback", json=given) as answer:
                    assert answer.status == 200
    assert {"decisions", "rewards"} <= set(await database.read(left_of, "u-42"))

    await database.write(lambda connection: [connection.execute(text(one)) for one in STATEMENTS] and None)

    assert await database.read(left_of, "u-42") == []
    assert {"decisions", "rewards"} <= set(await database.read(left_of, "u-43"))
    with Running(settings_for(database_url)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            for path in ("/stats", "/stats/raw", "/v1/posteriors", f"/v1/decisions/{other['id']}"):
                async with http.get(path) as answer:
                    assert answer.status == 200, path
            async with http.get(f"/v1/decisions/{reply['id']}") as answer:
                assert (await answer.json())["repeated"]["same"] is True
            assert (await ask(http))["id"]


@pytest.mark.parametrize("table", ["rewards", "decisions", "opinions", "outliers"])
def test_every_table_that_names_users_is_among_them(table):
    assert any(table in statement for statement in STATEMENTS)
