"""`throughtime serve`."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from throughtime.cli.builder import Device, OwnTask, option_parameters, typed_values
from throughtime.serve.settings import Limits


def serve(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders of trained runs; their names are the models'."),
    ],
    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Where to listen. Others than this machine's own need a token."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65_535, help="Port; 0: any that is free.")
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What every request must bring. Better in the environment, as THROUGHTIME_TOKEN: others see command lines.",
        ),
    ] = None,
    task: OwnTask = None,
    device: Device = "cpu",
    **typed: Any,
) -> None:
    """Serve trained runs over HTTP and WebSocket: sessions that carry a state, predictions, completions, and a page.

    Paths are under /v1: models, sessions, stream, predict, and completions in OpenAI's form. / is the page, /metrics has counts
    for Prometheus, /healthz says whether it lives. Sessions that are not in memory are in the store; Ctrl-C or SIGTERM saves
    all of them there. docs/serve.md has the messages.

    Examples:
    throughtime serve runs/book
    throughtime serve runs/book runs/morse --store sessions.db --port 8080
    THROUGHTIME_TOKEN=long-and-secret throughtime serve runs/book --host 0.0.0.0
    """
    from throughtime.runtime import load
    from throughtime.serve import serve as run_server

    limits = Limits.from_table(typed_values((Limits,), typed).get(Limits.section, {}))

    def started(url: str, hub: Any) -> None:
        models = ", ".join(hub.models)
        print(f"throughtime: {models} at {url}/v1, the page at {url}/; Ctrl-C stops", flush=True)

    saved = run_server(
        [load(run, task=task, device=device) for run in runs],
        host=host,
        port=port,
        token=token or os.environ.get("THROUGHTIME_TOKEN") or None,
        limits=limits,
        started=started,
    )
    kept = (
        f"{saved} {'session' if saved == 1 else 'sessions'} saved"
        if limits.store
        else "no --store, so no session is kept"
    )
    print(f"throughtime: stopped, {kept}", file=sys.stderr)


# The parameters that typer sees: those above, and one for each field of Limits.
_all = [each for each in inspect.signature(serve, eval_str=True).parameters.values() if each.name != "typed"]
_all = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in _all] + option_parameters(
    Limits, {}, ()
)
serve.__signature__ = inspect.Signature(_all)  # type: ignore[attr-defined]
serve.__annotations__ = {each.name: each.annotation for each in _all}
