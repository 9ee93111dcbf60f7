"""Our loggers go on after logging was configured from a file.

``logging.config.fileConfig``, which the ``env.py`` of every Alembic project calls, disables each logger that is there
already and that its file does not name. A process that migrates before it starts would be silent from then on.
"""

from __future__ import annotations

import logging

ROOT = "txpatterns"


def enable_loggers() -> None:
    """Enable those of our loggers that somebody has disabled; to hear less of one, set its level."""
    for name, logger in logging.Logger.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and (name == ROOT or name.startswith(f"{ROOT}.")):
            logger.disabled = False
