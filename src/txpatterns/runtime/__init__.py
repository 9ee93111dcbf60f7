"""What keeps background parts alive in a process: supervision, signals, threads, forks."""

from txpatterns.runtime.supervisor import Health, PartHealth, Supervisor
from txpatterns.runtime.worker import Worker

__all__ = ["Health", "PartHealth", "Supervisor", "Worker"]
