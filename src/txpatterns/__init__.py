"""Change a database and tell the rest of the world, with nothing lost and nothing done twice."""

__version__ = "0.1.0"
__all__ = ["__version__"]
