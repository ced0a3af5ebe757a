"""`armwise import`: settings made from those of another router."""

from pathlib import Path
from typing import Any

import click

from service.errors import ArmwiseError


@click.group("import")
def import_settings() -> None:
    """Make an armwise.toml from the settings of another router."""


@import_settings.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the settings. Default: standard output."
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def litellm(file: Path, out: Path | None, *, force: bool) -> None:
    """Translate the config.yaml of a LiteLLM proxy, FILE.

    What cannot be taken along is told line by line on standard error. Secrets that are written out are not copied.
    """
    from service.cli.litellm import imported

    found = imported(_read(file))
    if out is None:
        click.echo(found.toml, nl=False)
    else:
        if out.exists() and not force:
            raise ArmwiseError(f"{out} is there already. Give another --out, or --force to write over it.")
        out.write_text(found.toml, encoding="utf-8")
    for remark in found.remarks:
        click.echo(f"  - {remark}", err=True)
    click.echo(f"Next: armwise check --config {out or 'armwise.toml'}", err=True)


def _read(file: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ArmwiseError: it is no YAML, or the package that reads it is not installed.
    """
    try:
        import yaml  # comes with LiteLLM
    except ModuleNotFoundError as error:
        raise ArmwiseError("PyYAML is not installed. `pip install pyyaml` installs it.") from error
    try:
        return yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)  # a message of theirs may hold a line of the file, and so a secret
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ArmwiseError(f"{file}{where}: is no YAML; expected the config.yaml of a LiteLLM proxy.") from None
