"""`python -m service` is `armwise`."""

from service.cli.main import main

main(prog_name="armwise")
