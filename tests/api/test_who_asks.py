"""What a chat says of who asks: kept as far as a column holds, refused where it is ours and too much."""

import pytest

from tests.api.asking import ask, asked


async def test_a_long_user_of_openais_own_is_served_and_kept_shortened(http):
    reply = await ask(http, user="u" * 3000)
    async with http.get("/v1/decisions", params={"user": "u" * 256}) as told:
        [found] = (await told.json())["decisions"]
    assert found["id"] == reply["id"]


@pytest.mark.parametrize(
    ("wishes", "param"),
    [
        ({"user": "u" * 257}, "router.user"),
        ({"tags": {"k" * 257: ""}}, "router.tags"),
        ({"tags": {str(number): "" for number in range(65)}}, "router.tags"),
    ],
)
async def test_too_much_in_the_router_object_is_refused(http, wishes, param):
    found = await asked(http, router=wishes)
    assert found.status == 400
    assert found.body["error"]["param"] == param


@pytest.mark.parametrize("named", ["x", "auto:x"])
async def test_a_name_that_does_not_exist_is_not_repeated_at_length(http, named):
    found = await asked(http, model=named * 1000)
    assert found.status == 404
    assert len(found.body["error"]["message"]) < 400
