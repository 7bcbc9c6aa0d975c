"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

Seed = Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Seed of everything random.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars and no summary.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never make a connection (no verb needs one).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
Size = Annotated[int | None, typer.Option(help="Side of the square to crop and resize images to.")]
Channels = Annotated[int | None, typer.Option(help="1 (gray) or 3 (color); default: as the data.")]
OnBad = Annotated[str, typer.Option(help="A file that cannot be read: error, skip or quarantine.")]
