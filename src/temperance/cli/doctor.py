"""`temperance doctor`."""

from typing import Any

from temperance.cli.input import say
from temperance.cli.options import AsJson, Device, Offline, Quiet, Seed
from temperance.cli.verb import verb


@verb
def doctor(
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    offline: Offline = False,
    json_: AsJson = False,
) -> dict[str, Any]:
    """Say what is installed, which devices and encoders are there, what is missing and how to get it."""
    from temperance.doctor import examine

    found = examine()
    say(
        quiet,
        json_,
        "\n".join(f"{line['mark']} {line['what']:<28} {line['found']}" for line in found["lines"]),
    )
    return found
