"""`python -m service` is `armwise`."""

from service.cli import main

main(prog_name="armwise")
