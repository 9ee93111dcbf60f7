"""Sagas: code that survives its process, step by step, on the application's own transactions."""

from txpatterns.sagas.context import SagaContext
from txpatterns.sagas.operations import Operation, Wait
from txpatterns.sagas.sagas import Handle, Sagas
from txpatterns.sagas.settings import SagaSettings
from txpatterns.sagas.transactions import StepTransaction, SyncStepTransaction

__all__ = [
    "Handle",
    "Operation",
    "SagaContext",
    "SagaSettings",
    "Sagas",
    "StepTransaction",
    "SyncStepTransaction",
    "Wait",
]
