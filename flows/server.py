"""The process behind `flows.engine`: serves Prefect's API on a free port until its standard input closes.

Run as a script, and free of other modules of this package, so that it starts wherever the package lies. It prints
its port when it is ready to answer.
"""

from __future__ import annotations

import os
import socket
import sys
import threading


def main() -> None:
    """Serve until the parent closes our standard input, which it also does by dying."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()

    import uvicorn
    from prefect.server.api.server import create_app

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(port, flush=True)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        # final: the application object is not shared with another caller of this process.
        config = uvicorn.Config(create_app(final=True, ephemeral=True), log_level="error", lifespan="on")
        Server(config).run(sockets=[listener])


def _leave_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
