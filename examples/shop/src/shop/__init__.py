"""A small shop whose services tell each other what happened through txpatterns."""
