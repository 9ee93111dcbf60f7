"""Sagas: code that survives its process, step by step, on the application's own transactions."""

from txpatterns.sagas.calls import Call, Done, Doubt, NotDone, Undo, Unknown
from txpatterns.sagas.context import SagaContext
from txpatterns.sagas.handles import Handle
from txpatterns.sagas.operations import Operation, Wait
from txpatterns.sagas.reserving import Reserved
from txpatterns.sagas.rows import PIVOT, SagaCall, SagaSleep, SagaStep, SagaWait
from txpatterns.sagas.sagas import Sagas
from txpatterns.sagas.settings import SagaSettings
from txpatterns.sagas.signals import Signal
from txpatterns.sagas.steplist import Saga
from txpatterns.sagas.transactions import StepTransaction, SyncStepTransaction

__all__ = [
    "PIVOT",
    "Call",
    "Done",
    "Doubt",
    "Handle",
    "NotDone",
    "Operation",
    "Reserved",
    "Saga",
    "SagaCall",
    "SagaContext",
    "SagaSettings",
    "SagaSleep",
    "SagaStep",
    "SagaWait",
    "Sagas",
    "Signal",
    "StepTransaction",
    "SyncStepTransaction",
    "Undo",
    "Unknown",
    "Wait",
]
