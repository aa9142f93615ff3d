"""llama.cpp's own server for one GGUF file, with the interface of OpenAI's."""

from collections.abc import Callable
from pathlib import Path

from windtunnel.ship.llama_cpp import LlamaCpp


def serve(
    file: Path,
    host: str,
    port: int,
    context: int,
    ready: Callable[[str], None],
    wait: Callable[[], None],
) -> None:
    """Serve until `wait` returns; `ready` is called with the address. A `port` of 0 takes one that
    is free, a `context` of 0 takes the file's. Raises InputError for a file that cannot be loaded
    and an address that cannot be listened on.
    """
    with LlamaCpp(file, context, address=(host, port)) as engine:
        ready(f"{engine.url}/v1")
        wait()
