"""Messages that were given up, with everything that is needed to look into them and to send them again."""

from txpatterns.deadletters.store import bury

__all__ = ["bury"]
