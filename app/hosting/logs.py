"""Log lines of every process of the server."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.logging import RichHandler


def configure_logging(level: str, console: Console) -> None:
    """Plain lines for a log collector; in a terminal, lines above the progress bars."""
    handler: logging.Handler = logging.StreamHandler()
    layout = "%(asctime)s %(levelname)s %(name)s %(threadName)s: %(message)s"
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False)
        layout = "%(message)s"  # the handler adds time and level
    handler.setFormatter(logging.Formatter(layout))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # at INFO, JAX reports every kind of device that it does not find
    logging.getLogger("jax").setLevel(max(logging.WARNING, logging.root.level))
