"""Stock: quantities set aside under an id, then sold or released; never oversold, lost, or released twice.

In Redis: `txpatterns.tcc.stock.redis`, with the extra of that name.
"""

from __future__ import annotations

from txpatterns.tcc.stock.contract import Level, Lines, Reservation, State, Stock
from txpatterns.tcc.stock.expiry import Decision, Swept, sweep
from txpatterns.tcc.stock.limits import Limits
from txpatterns.tcc.stock.memory import MemoryStock
from txpatterns.tcc.stock.sql import PlainStock, SqlStock, TransactionStock
from txpatterns.tcc.stock.tables import StockTables

__all__ = [
    "Decision",
    "Level",
    "Limits",
    "Lines",
    "MemoryStock",
    "PlainStock",
    "Reservation",
    "SqlStock",
    "State",
    "Stock",
    "StockTables",
    "Swept",
    "TransactionStock",
    "sweep",
]
