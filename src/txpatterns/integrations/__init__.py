"""Hosts that run an App: one module for each, imported by whoever uses it."""
