"""Experiments through the whole service: their life, who is in, what variants decide on and teach, what comes of it."""

import asyncio
import time
from collections import Counter
from functools import partial

import aiohttp
import pytest
from msgspec.structs import replace

from bandit.experiments import Metric
from bandit.linear import LinearThompson
from bandit.policies import Fixed, StaticTier
from bandit.pooled import PooledThompson
from bandit.thompson import Thompson
from bandit.vocabulary import TASK_TYPES
from service.auth import key_row, new_key, new_secret
from service.experiments.design import Design, Population, Variant
from service.experiments.lifecycle import Asked, Begun, create
from service.experiments.lifecycle import take as take_step
from service.settings import Holdout, Quality
from service.storage import store
from service.storage.database import Database, migrate
from service.storage.tables import decisions, experiment_steps, exposures, seeds
from tests.api.asking import ask

PAIR = {
    "name": "pair",
    "variants": [
        {"name": "control", "policy": "always-small", "share": 0.5},
        {"name": "treated", "policy": "always-large", "share": 0.5},
    ],
    "primary": {"name": "quality"},
    "mode": "shared",
}
LEARNERS = {
    **PAIR,
    "name": "learners",
    "variants": [
        {"name": "plain", "policy": "thompson", "share": 0.5},
        {"name": "pooled", "policy": "pooled_thompson", "share": 0.5},
    ],
    "mode": "own",
}
POLICIES = (
    StaticTier(name="static_tier"),
    Fixed(name="always-small", arm="small"),
    Fixed(name="always-large", arm="large"),
    Thompson(name="thompson"),
    PooledThompson(name="pooled_thompson"),
)


def shared(*shares):
    """The variants of `PAIR` with other shares."""
    return [{**side, "share": share} for side, share in zip(PAIR["variants"], shares, strict=True)]


@pytest.fixture
def service(run):
    """A service that learns of feedback alone: what replies are read as comes whenever it comes."""
    return run(policies=POLICIES, quality=Quality(enabled=False))


@pytest.fixture
async def http(service):
    async with aiohttp.ClientSession(service.url) as session:
        yield session


async def get(http, path, **params):
    async with http.get(path, params=params) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def make(http, design, status=201, **more):
    async with http.post("/v1/experiments", json={**design, **more}) as reply:
        assert reply.status == status, await reply.text()
        return await reply.json()


async def take(http, name, action, status=200, **said):
    async with http.post(f"/v1/experiments/{name}/{action}", json=said) as reply:
        assert reply.status == status, await reply.text()
        return await reply.json()


async def begin(http, design, **more):
    made = await make(http, design, **more)
    return await take(http, made["name"], "start")


async def by(http, user, **more):
    """Ask as a user; the routing of the reply."""
    return (await ask(http, user=user, **more))["routing"]


async def rate(http, reply, value):
    async with http.post("/feedback", json={"decision_id": reply["id"], "value": value}) as answer:
        assert answer.status == 200


async def rows(service, table):
    return await read_rows(service.settings.database.url, table)


async def read_rows(url, table):
    database = Database(url, 1)
    try:
        return await database.read(
            lambda connection: [dict(row) for row in connection.execute(table.select()).mappings()]
        )
    finally:
        await database.close()


async def test_a_user_stays_in_a_variant_through_pause_and_restart_and_on_every_replica(run, service, http):
    users = [f"u-{number}" for number in range(40)]
    await begin(http, PAIR)
    first = {user: (await by(http, user))["variant"] for user in users}
    counted = Counter(first.values())
    assert set(counted) == {"control", "treated"}
    assert min(counted.values()) >= 8  # below by chance once in 100,000 salts
    for user in users:
        routing = await by(http, user)
        assert routing["variant"] == first[user]
        assert routing["model"] == {"control": "small", "treated": "large"}[first[user]]
        assert routing["propensity"] == 1.0
    await take(http, "pair", "pause")
    assert (await by(http, users[0]))["variant"] is None
    await take(http, "pair", "start")
    other = run(policies=POLICIES, quality=Quality(enabled=False))
    async with aiohttp.ClientSession(other.url) as there:
        assert {user: (await by(there, user))["variant"] for user in users} == first
    found = await rows(service, exposures)
    assert len(found) == 40
    assert Counter(row["variant"] for row in found) == counted
    stored = [row for row in await rows(service, decisions) if row["experiment"]]
    assert len(stored) == 120
    assert {row["unit"] for row in stored} == {row["unit"] for row in found}
    assert not {row["unit"] for row in stored} & set(users)


async def test_every_replica_follows_within_a_second(run, http):
    other = run(policies=POLICIES, quality=Quality(enabled=False))
    await begin(http, PAIR)
    async with aiohttp.ClientSession(other.url) as there:
        for _ in range(100):
            if (await by(there, "u-1"))["experiment"] == "pair":
                break
            await asyncio.sleep(0.05)
        assert (await by(there, "u-1"))["variant"] == (await by(http, "u-1"))["variant"]


async def test_what_names_a_model_or_a_policy_or_no_unit_is_not_in(http):
    await begin(http, PAIR)
    for said in ({"model": "medium"}, {"model": "auto:thompson"}, {"router": {"policy": "thompson"}}):
        assert (await by(http, "u-1", **said))["experiment"] is None
    reply = await ask(http)
    assert reply["routing"]["experiment"] is None
    told = await get(http, f"/v1/decisions/{reply['id']}")
    assert told["left_out"] == {"experiment": "pair", "why": "no unit"}
    async with http.post("/v1/controls", json={"action": "off"}) as answer:
        assert answer.status == 200
    routing = await by(http, "u-1")
    assert (routing["experiment"], routing["method"]) == (None, "kill_switch")
    async with http.get("/metrics") as answer:
        text = await answer.text()
    assert 'armwise_experiment_left_out_total{experiment="pair",why="no unit"} 1.0' in text


@pytest.mark.parametrize("mode", ["own", "frozen", "shared"])
async def test_explain_tells_the_variant_and_repeats_the_decision(http, mode):
    await begin(http, {**LEARNERS, "mode": mode})
    for user in ("u-1", "u-2", "u-3", "u-4"):
        reply = await ask(http, user=user)
        told = await get(http, f"/v1/decisions/{reply['id']}")
        assert told["assigned"]["experiment"] == "learners"
        assert told["assigned"]["variant"] == reply["routing"]["variant"]
        assert told["choice"]["policy"] == told["assigned"]["policy"] == reply["routing"]["policy"]
        assert told["repeated"]["same"] is True
        assert "u-" not in told["assigned"]["unit"]


async def test_linear_policies_learn_apart_too(run):
    """Twelve thumbs down for what a variant served move its own regressions; those of the other variant stay."""
    linear = LinearThompson(name="linear_thompson")
    service = run(policies=(*POLICIES, linear), quality=Quality(enabled=False))
    sides = [{"name": name, "policy": "linear_thompson", "share": 0.5} for name in ("a", "b")]
    async with aiohttp.ClientSession(service.url) as http:
        await rate(http, await ask(http, model="small"), True)
        await begin(http, LEARNERS, variants=sides)
        spaces = ["@learners/a", "@learners/b"]
        before = [await betas(http, policy="linear_thompson", namespace=space) for space in spaces]
        assert before[0] == before[1] == await betas(http, policy="linear_thompson")
        users = [f"u-{number}" for number in range(16)]
        for user in users:
            reply = await ask(http, user=user)
            if reply["routing"]["variant"] == "a":
                await rate(http, reply, False)
        after = [await betas(http, policy="linear_thompson", namespace=space) for space in spaces]
        assert after[1] == before[1]
        assert sum(mean for mean, _ in after[0].values()) < sum(mean for mean, _ in before[0].values()) - 0.01
        assert await betas(http, policy="linear_thompson") == before[0]


async def test_conversations_of_single_requests_go_together(http):
    await begin(http, PAIR, unit="request")
    sessions = {f"s-{number}" for number in range(12)}
    seen = {
        session: {(await ask(http, router={"session": session}))["routing"]["variant"] for _ in range(4)}
        for session in sessions
    }
    assert all(len(variants) == 1 for variants in seen.values())
    assert set().union(*seen.values()) == {"control", "treated"}  # all alike once in 2,000 salts
    free = {(await ask(http))["routing"]["variant"] for _ in range(20)}
    assert free == {"control", "treated"}


async def test_a_filter_decides_who_takes_part_and_shares_may_leave_some_out(http):
    small = [{**side, "share": 0.05} for side in PAIR["variants"]]
    await begin(http, PAIR, variants=small, population={"tags": {"team": "search"}})
    inside = [(await by(http, f"u-{number}", router={"tags": {"team": "search"}}))["variant"] for number in range(60)]
    assert inside.count(None) >= 40  # 54 are expected; fewer once in a million salts
    assert not [n for n in range(20) if (await by(http, f"u-{n}", router={"tags": {"team": "x"}}))["variant"]]


async def test_overlapping_experiments_are_refused_unless_their_populations_are_apart(http):
    await begin(http, PAIR, population={"tags": {"team": "a"}})
    await make(http, {**PAIR, "name": "same"})
    refused = await take(http, "same", "start", 409)
    assert "`same` and `pair`, which is running, would both hold the same requests" in refused["error"]["message"]
    await begin(http, {**PAIR, "name": "apart"}, population={"tags": {"team": "b"}})
    await take(http, "pair", "pause")  # holds its place, or it could not go on
    assert "paused" in (await take(http, "same", "start", 409))["error"]["message"]
    await take(http, "pair", "stop")
    await take(http, "apart", "stop")
    await take(http, "same", "start")


async def test_every_step_is_checked_and_kept_with_who_took_it(run, database_url):
    keys = {name: new_secret() for name in ("read", "admin")}
    await asyncio.to_thread(migrate, database_url)
    database = Database(database_url)
    made = {name: new_key(secret, name, [name], 1.0) for name, secret in keys.items()}
    for key in made.values():
        await database.write(lambda connection, key=key: store.insert_key(connection, key_row(key)))
    await database.close()
    service = run(policies=POLICIES)
    reading, admin = ({"authorization": f"Bearer {keys[name]}"} for name in ("read", "admin"))
    async with aiohttp.ClientSession(service.url, headers=reading) as http:
        await make(http, PAIR, 403)
    async with aiohttp.ClientSession(service.url, headers=admin) as http:
        await make(http, PAIR, note="why not")
        await make(http, PAIR, 409)
        refused = await take(http, "pair", "stop", 409)
        assert (
            "`stop` needs an experiment that is running or paused, but `pair` is created" in refused["error"]["message"]
        )
        assert "now it can: start, archive" in refused["error"]["message"]
        await take(http, "pair", "start", note="go")
        await take(http, "pair", "start", 409)
        assert (await take(http, "pair", "decide", 409))["error"]["code"] == "conflict"
        assert (await take(http, "pair", "pause", 422, ship="treated"))["error"]["param"] == "ship"
        await take(http, "pair", "stop")
        assert "did you mean `treated`" in (await take(http, "pair", "decide", 404, ship="treatd"))["error"]["message"]
        assert (await take(http, "pair", "decide", 422, learning="drop"))["error"]["param"] == "learning"
        assert (await take(http, "pair", "explode", 404))["error"]["code"] == "not_found"
        await take(http, "pare", "start", 404)
        assert (await take(http, "pair", "decide", 400, ships="treated"))["error"]["code"] == "invalid_type"
        await take(http, "pair", "decide", ship="treated")
        await take(http, "pair", "archive")
    async with aiohttp.ClientSession(service.url, headers=reading) as http:
        found = await get(http, "/v1/experiments/pair")
        assert [(step["action"], step["who"], step["note"]) for step in found["log"]] == [
            ("create", made["admin"].id, "why not"), ("start", made["admin"].id, "go"), ("stop", made["admin"].id, ""),
            ("decide", made["admin"].id, ""), ("archive", made["admin"].id, ""),
        ]  # fmt: skip
        assert (found["state"], found["decided"]["ship"]) == ("archived", "treated")
        assert "salt" not in str(found)
        assert [one["name"] for one in (await get(http, "/v1/experiments"))["experiments"]] == ["pair"]


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"name": "no spaces"}, 400, "name"),
        ({"primary": {"name": "qualitty"}}, 422, "`qualitty` is not measured (did you mean `quality`?)"),
        ({"guardrails": [{"metric": "luck", "limit": 0.1}]}, 422, "`luck` is not measured"),
        ({"control": "treatd"}, 422, "did you mean `treated`"),
        ({"minimum_s": 10.0, "maximum_s": 5.0}, 422, "`maximum_s` is 5"),
        ({"maximum_s": 200 * 86_400.0}, 422, "decisions are kept for 90"),
        ({"population": {"task_types": ["Poetry"]}}, 400, "Poetry"),
        ({"variants": PAIR["variants"][:1]}, 400, "variants"),
        ({"variants": [PAIR["variants"][0]] * 2}, 422, "Two variants are named `control`"),
        ({"variants": [{**side, "share": 0.6} for side in PAIR["variants"]]}, 422, "add up to 1.2"),
        ({"variants": [{**side, "policy": "always-smal"} for side in PAIR["variants"]]}, 404, "`always-small`"),
        ({"variants": [{**side, "share": 1e-5} for side in PAIR["variants"]]}, 422, "expected at least 0.0001"),
        ({"variants": shared(0.49996, 0.00006)}, 422, "`treated` has a share of 6e-05; expected at least 0.0001"),
        ({"horizon": 20}, 400, "Expected `int` >= 50 at `horizon`"),
        ({"horizon": 10**30}, 400, "`horizon`"),
        ({"primary": {"name": "quality", "margin": 1e200}}, 422, "found margin 1e+200"),
        ({"guardrails": [{"metric": "failure", "limit": 2}]}, 422, "expected 0 < limit < largest"),
        ({"guardrails": [{"metric": "failure", "limit": 0.1}] * 2}, 422, "two guardrails on one metric"),
        ({"note": "a\0b"}, 400, "`note`"),
    ],
)  # fmt: skip
async def test_a_design_that_cannot_be_meant_is_refused_with_the_reason(http, change, status, said):
    error = (await make(http, {**PAIR, **change}, status))["error"]
    assert said in error["message"]
    assert error["param"].partition("[")[0].partition(".")[0] in change


async def betas(http, **params):
    found = (await get(http, "/v1/posteriors", tier="simple", **params))["cells"]
    return {(cell["task_type"], cell["model"]): (round(cell["mean"], 6), cell["n"]) for cell in found}


async def test_own_posteriors_begin_with_a_copy_learn_apart_and_are_merged_on_purpose(service, http):
    for _ in range(3):
        before = await ask(http, model="small")
        await rate(http, before, True)
    task = before["routing"]["task_type"]
    await begin(http, LEARNERS)
    for policy, variant in (("thompson", "plain"), ("pooled_thompson", "pooled")):
        own = await betas(http, policy=policy, namespace=f"@learners/{variant}")
        assert own[task, "small"] == pytest.approx((await betas(http, policy=policy))[task, "small"], abs=1e-4)
    replies = [await ask(http, user=f"u-{number}") for number in range(12)]
    for reply in replies:
        await rate(http, reply, False)
    taught = Counter(reply["routing"]["variant"] for reply in replies)
    for variant, labels in taught.items():
        found = await betas(http, policy="thompson", namespace=f"@learners/{variant}")
        assert sum(n for (_, _), (_, n) in found.items()) == 3 + labels
    await rate(http, before, False)  # of before the start: taught in common alone
    assert sum(n for _, n in (await betas(http, policy="thompson")).values()) == 3
    await take(http, "learners", "stop")
    await take(http, "learners", "decide", learning="merge")
    common = await betas(http, policy="thompson")
    assert sum(n for _, n in common.values()) == 15
    late = await ask(http, model="small")
    await rate(http, late, True)
    assert sum(n for _, n in (await betas(http, policy="thompson")).values()) == 16
    database = Database(service.settings.database.url, 1)
    assert await database.read(store.compare_fold) == {}
    await database.close()
    before_change = await betas(http, policy="thompson")
    await rate(http, replies[0], True)  # a changed mind about a reply of the experiment is heard in common, too
    changed = await betas(http, policy="thompson")
    assert changed != before_change
    assert sum(n for _, n in changed.values()) == 16
    async with http.post("/v1/controls", json={"action": "reset"}) as answer:
        assert answer.status == 200
    assert sum(n for _, n in (await betas(http, policy="thompson")).values()) == 0


async def test_dropped_learning_stays_aside_after_a_restart_too(run, http):
    await begin(http, LEARNERS)
    for number in range(6):
        await rate(http, await ask(http, user=f"u-{number}"), False)
    await take(http, "learners", "stop")
    await take(http, "learners", "decide", learning="drop")
    assert sum(n for _, n in (await betas(http, policy="thompson")).values()) == 0
    other = run(policies=POLICIES, quality=Quality(enabled=False))
    async with aiohttp.ClientSession(other.url) as there:
        assert sum(n for _, n in (await betas(there, policy="thompson")).values()) == 0


async def test_own_posteriors_survive_a_restart(run, http):
    first = await ask(http, model="small")
    await rate(http, first, True)
    await begin(http, LEARNERS)
    for number in range(8):
        await rate(http, await ask(http, user=f"u-{number}"), False)
    names = ["@learners/plain", "@learners/pooled"]
    here = [await betas(http, policy="thompson", namespace=name) for name in names]
    other = run(policies=POLICIES, quality=Quality(enabled=False))
    async with aiohttp.ClientSession(other.url) as there:
        assert [await betas(there, policy="thompson", namespace=name) for name in names] == here


async def test_frozen_posteriors_stay_while_the_common_one_learns(run, http):
    for _ in range(3):
        await rate(http, await ask(http, model="small"), False)
    await begin(http, LEARNERS, mode="frozen")

    async def drawn(client):
        found = {}
        for number in range(8):
            reply = await ask(client, user=f"u-{number}")
            found[reply["routing"]["variant"]] = reply["routing"]["eligible"]
        return found

    before = await drawn(http)
    assert set(before) == {"plain", "pooled"}
    for _ in range(12):
        await rate(http, await ask(http, model="large"), False)
    for number in range(4):
        await rate(http, await ask(http, user=f"u-{number}"), False)
    common = await betas(http, policy="thompson")
    assert sum(n for _, n in common.values()) == 19
    assert await drawn(http) == before
    other = run(policies=POLICIES, quality=Quality(enabled=False))
    async with aiohttp.ClientSession(other.url) as there:
        assert await drawn(there) == before


async def test_what_is_shipped_serves_until_the_experiment_is_archived(http):
    await begin(http, PAIR, population={"tags": {"team": "search"}})
    await take(http, "pair", "stop")
    done = await take(http, "pair", "decide", ship="treated")
    assert "always-large serves its population from now on" in done["sentence"]
    tagged = {"router": {"tags": {"team": "search"}}}
    assert (await ask(http, **tagged))["routing"]["policy"] == "always-large"
    assert (await ask(http))["routing"]["policy"] == "static_tier"
    told = await take(http, "pair", "archive")
    assert "Set routing.policy to always-large" in told["sentence"]
    assert (await ask(http, **tagged))["routing"]["policy"] == "static_tier"


async def test_a_policy_that_left_the_settings_takes_nobody_in_and_no_request_fails(run, http):
    await begin(http, PAIR)
    other = run(policies=POLICIES[:2])
    async with aiohttp.ClientSession(other.url) as there:
        reply = await ask(there, user="u-1")
        assert (reply["routing"]["experiment"], reply["routing"]["policy"]) == (None, "static_tier")
        told = await get(there, f"/v1/decisions/{reply['id']}")
        assert told["left_out"] == {"experiment": "pair", "why": "no policy"}


async def test_damage_in_the_database_stops_neither_the_start_nor_a_chat(run, database_url):
    """Steps that cannot be read, and beliefs at the start that are none: nobody is in, and everybody is served."""
    await asyncio.to_thread(migrate, database_url)
    database = Database(database_url, 1)
    sides = tuple(Variant(**{**side, "policy": "thompson"}) for side in PAIR["variants"])
    for number, mode in enumerate(("frozen", "own", "shared")):
        tags = {"mode": mode}
        made = Design(
            name=mode, variants=sides, primary=Metric(name="quality"), mode=mode, population=Population(tags=tags)
        )
        await database.write(lambda connection, made=made: create(connection, made, "me", 1.0))
        torn = Begun(fits={"thompson": {"Other|medium": "gone"}}, evidence=dict.fromkeys(TASK_TYPES, "gone"))
        start = partial(take_step, name=mode, asked=Asked(action="start"), begun=torn, who="me", at=2.0 + number)
        await database.write(start)
    strange = {"arm": "small", "tier": "medium", "hour": 1, "channel": "thumb", "n": 1, "s": 1, "s2": 1}
    await database.write(lambda c: c.execute(seeds.insert(), {"experiment": "own", "task_type": "Poetry", **strange}))
    row = {"at": 9.0, "who": "", "note": "", "experiment": "frozen"}
    for number, (action, content) in enumerate([("explode", "{}"), ("stop", "{}"), ("decide", '{"ship": "x"}')], 10):
        step = {"id": number, "action": action, "content": content, **row, "experiment": "shared"}
        await database.write(lambda c, step=step: c.execute(experiment_steps.insert(), step))
    await database.close()
    service = run(policies=POLICIES)
    async with aiohttp.ClientSession(service.url) as http:
        found = {
            mode: await ask(http, user="u", router={"tags": {"mode": mode}}) for mode in ("frozen", "own", "shared")
        }
        assert {mode: reply["routing"]["experiment"] for mode, reply in found.items()} == {
            "frozen": None, "own": "own", "shared": None,
        }  # fmt: skip
        async with http.get("/metrics") as answer:
            assert 'armwise_learner_errors_total{place="experiments"} 1.0' in await answer.text()
        assert {one["name"]: one["state"] for one in (await get(http, "/v1/experiments"))["experiments"]} == {
            "own": "running", "shared": "stopped", "frozen": "running",
        }  # fmt: skip
        await take(http, "frozen", "stop")


async def test_the_holdout_is_served_by_one_model_and_is_in_no_experiment(run):
    service = run(policies=POLICIES, holdout=Holdout(share=0.05, model="medium"))
    async with aiohttp.ClientSession(service.url) as http:
        await begin(http, PAIR)
        replies = [await ask(http, user=f"u-{number}") for number in range(170, 230)]
        held = [reply for reply in replies if reply["routing"]["method"] == "holdout"]
        assert len(held) == 5  # 3 are expected; there is no salt, so they are the same every time
        assert {reply["routing"]["model"] for reply in held} == {"medium"}
        assert {reply["routing"]["experiment"] for reply in held} == {None}
        told = await get(http, f"/v1/decisions/{held[0]['id']}")
        assert (told["choice"]["propensity"], told["repeated"]["same"]) == (1.0, True)


async def test_experiments_of_replicas_that_start_at_once_do_not_overlap(run, http):
    other = run(policies=POLICIES, quality=Quality(enabled=False))
    names = [f"e-{number}" for number in range(6)]
    async with aiohttp.ClientSession(other.url) as there:
        for name in names:
            await make(http, {**PAIR, "name": name})
        clients = [http, there] * 3

        async def start(client, name):
            async with client.post(f"/v1/experiments/{name}/start") as reply:
                return reply.status

        statuses = await asyncio.gather(*(start(*pair) for pair in zip(clients, names, strict=True)))
    assert sorted(statuses) == [200, 409, 409, 409, 409, 409]
    found = (await get(http, "/v1/experiments"))["experiments"]
    assert Counter(one["state"] for one in found) == {"running": 1, "created": 5}


async def test_a_variant_has_a_budget_of_its_own_and_its_share_of_a_day_s_money(run):
    frugal = replace(POLICIES[-1], name="frugal", objective="budget", usd_per_day=10.0)
    service = run(policies=(*POLICIES, frugal))
    sides = [{"name": "a", "policy": "frugal", "share": 0.25}, {"name": "b", "policy": "thompson", "share": 0.75}]
    async with aiohttp.ClientSession(service.url) as http:
        await begin(http, LEARNERS, variants=sides)
        budgets, now, account = service.parts.budgets, time.time(), "@learners/a"
        common, own = budgets.terms(frugal, now), budgets.terms(frugal, now, account)
        assert own.budget_usd == pytest.approx(common.budget_usd / 4)
        replies = [await ask(http, user=f"u-{number}") for number in range(24)]
        inside = [reply for reply in replies if reply["routing"]["variant"] == "a"]
        assert inside  # none once in 1,000 salts
        assert budgets.money(replace(frugal, name=account), time.time())[1].requests == len(inside)
        assert budgets.money(frugal, time.time())[1].requests == 0
        told = await get(http, f"/v1/decisions/{inside[0]['id']}")
        assert told["choice"]["terms"]["budget_usd"] == pytest.approx(own.budget_usd, rel=0.5)
        assert told["repeated"]["same"] is True
