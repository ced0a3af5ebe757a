"""Who is in an experiment, as it is written down: with each decision, and once for each unit."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from service.experiments.assigning import Assignment
from service.storage.tables import exposures


def columns_of(assigned: Assignment | None) -> dict[str, str | None]:
    """A request's place as columns of its decision."""
    if assigned is None:
        return {"experiment": None, "variant": None, "unit": None}
    return {"experiment": assigned.experiment, "variant": assigned.variant, "unit": assigned.unit}


def expose(connection: Connection, decisions: Sequence[Mapping[str, object]]) -> None:
    """Note since when units of these decisions are in an experiment; of those that were before, nothing changes."""
    rows = [
        {"experiment": row["experiment"], "unit": row["unit"], "variant": row["variant"], "first_at": row["created_at"]}
        for row in decisions
        if row.get("experiment")
    ]
    if rows:
        kind = sqlite if connection.dialect.name == "sqlite" else postgresql
        rows.sort(key=lambda row: (str(row["experiment"]), str(row["unit"])))  # so that two writers never block
        connection.execute(kind.insert(exposures).on_conflict_do_nothing(), rows)
