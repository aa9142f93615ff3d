"""llama.cpp's own server with the interface of OpenAI, for one GGUF file."""

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
    """Serve until `wait` returns; `ready` hears the address. `port` 0: one that is free.
    `context` 0: the file's. Raises InputError for a file that cannot be loaded and an address
    that cannot be listened on.
    """
    with LlamaCpp(file, context, address=(host, port)) as engine:
        ready(f"{engine.url}/v1")
        wait()
