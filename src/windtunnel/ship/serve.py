"""llama.cpp's own server for one GGUF file, with the interface of OpenAI's, behind a proxy that
keeps out the web and special tokens that people type.
"""

import secrets
import threading
from collections.abc import Callable
from pathlib import Path

from windtunnel.errors import InputError
from windtunnel.ship.llama_cpp import LlamaCpp
from windtunnel.ship.proxy import Proxy


def serve(
    file: Path,
    host: str,
    port: int,
    context: int | None,
    ready: Callable[[str], None],
    wait: Callable[[], None],
) -> None:
    """Serve until `wait` returns; `ready` is called with the address. A `port` of 0 takes one that
    is free, no `context` what `LlamaCpp` takes. Raises InputError for a file that cannot be loaded
    and an address that cannot be listened on.
    """
    # Only the proxy knows it, so that nothing goes round it.
    key = secrets.token_urlsafe(32)
    with LlamaCpp(file, context, key=key) as engine:
        try:
            proxy = Proxy((host, port), engine, key)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{file}: cannot listen on {host}:{port}: {reason}") from None
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            ready(f"{proxy.url}/v1")
            wait()
        finally:
            proxy.shutdown()
            proxy.server_close()
