"""`armwise completion`: the script that makes a shell complete commands and options."""

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_ARMWISE_COMPLETE"


# Click leaves the paragraph behind a backspace as it is.
_HELP = """Print the script that makes SHELL complete commands, options and their values.

\b
bash: armwise completion bash > ~/.local/share/bash-completion/completions/armwise
zsh:  armwise completion zsh > "${fpath[1]}/_armwise"
fish: armwise completion fish > ~/.config/fish/completions/armwise.fish
"""


@click.command(help=_HELP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script."""
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"There is no completion for {shell}.")
    # Not `source()`, which for bash runs it to ask for its version: the script may be made where bash is not.
    script = made(ctx.find_root().command, {}, "armwise", _VARIABLE)
    click.echo(script.source_template % script.source_vars())
