"""`armwise evaluate`, `replay` and `report`: what other policies would have been worth, told from the own log."""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service.cli.options import config_option, echo_json, json_option, look, seconds
from service.errors import NotFound
from service.terminal import interval_plot, plots, show, table

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from bandit.policies import Policy
    from service.evaluation.evaluating import Span
    from service.settings import Settings

T = TypeVar("T")

FILE = click.Path(path_type=Path, dir_okay=False, exists=True)

since_option = click.option(
    "--since",
    callback=seconds,
    metavar="TIME",
    default="7d",
    show_default=True,
    help="Decisions of the last 7d, 12h ...",
)
logged_by_option = click.option(
    "--logged-by", multiple=True, metavar="POLICY", help="Only decisions that this policy took. Give several."
)
metric_option = click.option(
    "--metric", metavar="NAME", help="The metric whose feedback is the value. Default: the first one configured."
)
estimator_option = click.option(
    "--estimator",
    type=click.Choice(["dr", "snips", "ips"]),
    default="dr",
    show_default=True,
    help="Doubly robust, self-normalised or plain inverse propensity scores.",
)
policy_option = click.option("--policy", "file", type=FILE, help="A file with [[policies]]: the candidates.")
name_option = click.option(
    "--name", "names", multiple=True, metavar="NAME", help="A candidate: of the file, or without one of the settings."
)


controls_option = click.option(
    "--without-controls", is_flag=True, help="As if nothing had been frozen, reset or rolled back."
)


@click.command()
@config_option
@policy_option
@name_option
@controls_option
@since_option
@metric_option
@logged_by_option
@estimator_option
@click.option("--shadow", metavar="POLICY", help="Instead of candidates: the policy that stood in the shadow.")
@json_option
def evaluate(config: Path | None, file: Path | None, names: tuple[str, ...], since: float, **given: Any) -> None:
    """Say what a candidate policy would have been worth on the decisions of the log, or why nobody can know."""
    from service.evaluation.evaluating import evaluation, gather
    from service.evaluation.shadow import shadowed

    settings, shadow, method = _read_settings(config), given["shadow"], given["estimator"]
    if shadow:
        if file or names:
            raise click.UsageError("Give candidates or --shadow, one of both.")
        span = _span(settings, since, given)
        said = _with_log(settings, span, lambda log, tick: shadowed(log, settings, shadow, span, method, tick))
        _print({**_about(span, {}), "estimator": method, **said}, told_evaluation, given["as_json"])
        return
    policies = _candidates(settings, file, names)
    span = _span(settings, since, given)
    columns, left_out = _with_log(settings, span, lambda log, tick: gather(log, settings, policies, span, tick))
    found = evaluation(columns, [policy.name for policy in policies], given["estimator"])
    _print({**_about(span, left_out), "estimator": given["estimator"], **found}, told_evaluation, given["as_json"])


@click.command()
@config_option
@policy_option
@name_option
@controls_option
@click.option("--prices", type=FILE, help="A file with [[models]]: names and other prices.")
@click.option("--limit", type=click.IntRange(1), help="At most so many decisions, the oldest.")
@since_option
@logged_by_option
@json_option
def replay(
    config: Path | None, file: Path | None, names: tuple[str, ...], prices: Path | None, since: float, **given: Any
) -> None:
    """Take the decisions of the log again: by another policy, at other prices, or to see that they repeat."""
    import msgspec

    from service.evaluation.candidates import read_prices
    from service.evaluation.evaluating import at_prices, derived_again, gather, replayed

    if prices and (file or names):
        raise click.UsageError("Give candidates or --prices, one of both.")
    settings = _read_settings(config)
    span = msgspec.structs.replace(_span(settings, since, given), metric="", limit=given["limit"] or 0)
    if prices:
        changed, name = read_prices(prices, settings), f"at the prices of {prices.name}"
        columns, left_out = _with_log(
            settings, span, lambda log, tick: at_prices(log, settings, changed, name, span, tick)
        )
        _print({**_about(span, left_out), **replayed(columns, [name])}, told_replay, given["as_json"])
    elif file or names:
        policies = _candidates(settings, file, names)
        columns, left_out = _with_log(settings, span, lambda log, tick: gather(log, settings, policies, span, tick))
        found = replayed(columns, [policy.name for policy in policies])
        _print({**_about(span, left_out), **found}, told_replay, given["as_json"])
    else:
        again = _with_log(settings, span, lambda log, tick: derived_again(log, span, tick))
        _print({**_about(span, Counter()), **again}, told_again, given["as_json"])


@click.command()
@config_option
@since_option
@metric_option
@logged_by_option
@estimator_option
@json_option
def report(config: Path | None, since: float, **given: Any) -> None:
    """Say what routing was worth over the best fixed model, and what each model alone would have cost."""
    from service.evaluation.evaluating import arms_of, gather, rivals
    from service.evaluation.evaluating import report as reported

    settings = _read_settings(config)
    span = _span(settings, since, given)
    columns, left_out = _with_log(settings, span, lambda log, tick: gather(log, settings, rivals(settings), span, tick))
    found = reported(columns, list(arms_of(settings)), given["estimator"])
    _print({**_about(span, left_out), "estimator": given["estimator"], **found}, told_report, given["as_json"])


def _read_settings(config: Path | None) -> "Settings":
    from service.configuration import read_settings

    return read_settings(config, os.environ)


def _candidates(settings: "Settings", file: Path | None, names: Sequence[str]) -> "Sequence[Policy]":
    """The policies of the file, else of the settings; with names only those."""
    from service.evaluation.candidates import read_policies
    from service.mistakes import suggestion

    if file is None and not names:
        raise click.UsageError("Give candidates: --policy FILE, or --name of a policy in the settings.")
    known = read_policies(file, settings, os.environ) if file else settings.policies
    by_name = {policy.name: policy for policy in known}
    for name in names:
        if name not in by_name:
            raise NotFound(f"No policy is called `{name}`{suggestion(name, by_name)}.")
    return [by_name[name] for name in dict.fromkeys(names or by_name)]


def _span(settings: "Settings", since: float, given: Mapping[str, Any]) -> "Span":
    from service.evaluation.evaluating import Span
    from service.mistakes import suggestion

    known = [metric.name for metric in settings.rewards.metrics]
    metric = given.get("metric") or known[0]
    if metric not in known:
        raise NotFound(f"No metric is called `{metric}`{suggestion(metric, known)}.")
    now = time.time()
    return Span(
        since=now - since,
        until=now,
        metric=metric,
        logged_by=frozenset(given["logged_by"]),
        controls=not given.get("without_controls", False),
    )


def _with_log(settings: "Settings", span: "Span", work: "Callable[[Connection, Callable[[int], object]], T]") -> T:
    """Do `work`, which only reads, on one view of the configured database, with a bar of decisions on stderr."""
    from service.evaluation.decision_log import count_decisions

    def reading(connection: "Connection") -> T:
        count = count_decisions(connection, span.since, span.until)
        length = min(count, span.limit) if span.limit else count
        with click.progressbar(length=length, label="Reading decisions", file=sys.stderr) as bar:
            return work(connection, bar.update)

    return look(settings, reading)


def _about(span: "Span", left_out: Mapping[str, int]) -> dict[str, Any]:
    return {"since": span.since, "until": span.until, "metric": span.metric or None, "left_out": dict(left_out)}


def _print(found: Mapping[str, Any], told: Callable[[Mapping[str, Any]], Iterator[str]], as_json: bool) -> None:  # noqa: FBT001 - a flag of the command line
    if as_json:
        echo_json(found)
    else:
        show(told(found))


# In words


def told_evaluation(found: Mapping[str, Any]) -> Iterator[str]:
    """An evaluation as the owner reads it."""
    yield from _log_told(found)
    if "agreement" in found:
        yield (
            f"In the shadow, {found['policy']} drew the same model in {found['agreement']:.1%} of the decisions; "
            f"{found['expected_agreement']:.1%} were to be expected."
        )
    yield f"Logged policies  {_value(found['logged']['value'])}; {_usd(found['logged']['cost_usd'])} at today's prices"
    for one in found["policies"]:
        yield ""
        yield f"{one['policy']}"
        yield f"  value       {_value(one['value'])}"
        if "refused" not in one["value"]:
            value = one["value"]
            yield f"  any time    {value['anytime_low']:.3f} to {value['anytime_high']:.3f}, however often one looks"
            yield (
                f"  rests on    {value['labels']:,} labels that tell as much as {value['effective_n']:,.0f} of its own "
                f"would; one stands for {value['max_weight']:.1f} at most; {value['users']:,} users"
            )
        yield f"  difference  {_value(one['difference'], signed=True)}"
        yield f"  bill        {_usd(one['cost_usd'])}"
        for task, row in one["task_types"].items():
            if "refused" not in row["difference"]:
                yield f"  {task:16}  {row['decisions']:>8,}  {_value(row['difference'], signed=True)}"
        refused = [task for task, row in one["task_types"].items() if "refused" in row["difference"]]
        if plots():
            drawn = ("all", one["difference"]), *((task, row["difference"]) for task, row in one["task_types"].items())
            yield from _drawn("differences, with their intervals", drawn)
        if refused:
            yield f"  too little is known by itself of: {', '.join(refused)}"


def told_replay(found: Mapping[str, Any]) -> Iterator[str]:
    """A replay as the owner reads it."""
    yield f"{found['decisions']:,} decisions."
    yield from _left_out(found)
    logged = found["logged"]
    for one in found["policies"]:
        yield ""
        yield f"{one['policy']}: the likeliest model is another one in {one['likeliest_differs']:.1%} of the decisions"
        rows = [("", "logged", one["policy"][:24])]
        rows += [(name, f"{share:.1%}", f"{one['shares'][name]:.1%}") for name, share in logged["shares"].items()]
        rows.append(("expected bill", _usd(logged["cost_usd"]), _usd(one["cost_usd"])))
        yield from _aligned(rows)
        for task, row in one["task_types"].items():
            shares = sorted(row["shares"].items(), key=lambda pair: -pair[1])[:3]
            most = ", ".join(f"{name} {share:.0%}" for name, share in shares if share)
            yield f"  {task:16} {row['decisions']:>8,}  {most}"


def told_again(found: Mapping[str, Any]) -> Iterator[str]:
    """How many decisions came out the same."""
    yield f"{found['same']:,} of {found['decisions']:,} decisions come out the same, bit for bit."
    for one in found["different"]:
        yield f"  {one['id']}: {one['why']}"
    more = found["decisions"] - found["same"] - len(found["different"])
    if more > 0:
        yield f"  and {more:,} more"


def told_report(found: Mapping[str, Any]) -> Iterator[str]:
    """The report as the owner reads it."""
    yield from _log_told(found)
    yield f"Live routing      {_value(found['live'])}"
    best = found["best_fixed"]
    if "refused" in best:
        yield f"Best fixed model  {best['refused']}"
    else:
        yield f"Best fixed model  {best['model']}, chosen on the first half of the log"
        yield f"  on the second   {_value(best['value'])}"
        yield f"Routing over it   {_value(best['difference'], signed=True)}"
    if plots():
        yield from _drawn("routing's quality over each model alone, with its interval", found["against"].items())
    yield ""
    rows = [("instead of", "its bill", "saved", "routing's quality over it")]
    for name, against in found["against"].items():
        bill, saved = found["bills_usd"].get(name), found["savings_usd"].get(name)
        shown = ("-" if bill is None else _usd(bill), "-" if saved is None else _usd(saved))
        rows.append((name, *shown, "cannot be told" if "refused" in against else _value(against, signed=True)))
    yield from _aligned(rows)
    for name, against in found["against"].items():
        if "refused" in against:
            yield f"  {name}: {against['refused']}"
    yield f"Live routing: {_usd(found['live_usd'])} at today's prices, {_usd(found['paid_usd'])} as metered."


def _log_told(found: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{found['decisions']:,} decisions; {found['labelled']:,} ({found['labelled_share']:.1%}) have a value: "
        f"feedback on {found['feedback_rate']:.1%}, {found['failures']:,} failures. Metric: {found['metric']}."
    )
    yield from _left_out(found)


def _left_out(found: Mapping[str, Any]) -> Iterator[str]:
    if found["left_out"]:
        yield "Left out: " + ", ".join(f"{count:,} {reason}" for reason, count in found["left_out"].items()) + "."


def _value(found: Mapping[str, Any], *, signed: bool = False) -> str:
    if "refused" in found:
        return f"cannot be told: {found['refused']}"
    sign = "+" if signed else ""
    return f"{found['value']:{sign}.3f} (95 %: {found['low']:{sign}.3f} to {found['high']:{sign}.3f})"


def _usd(amount: float) -> str:
    sign, size = "-" if amount < 0.0 else "", abs(amount)
    return f"{sign}${size:,.2f}" if size >= 1.0 else f"{sign}${size:.4f}"


def _drawn(title: str, found: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Intervals below each other on one scale; those that cannot be told are left out."""
    rows = [(name, one["low"], one["value"], one["high"]) for name, one in found if "refused" not in one]
    if rows:
        yield f"  {title}:"
        yield from (f"  {line}" for line in interval_plot(rows))


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield from (f"  {line}" for line in table(rows, right=range(1, len(rows[0]))))
