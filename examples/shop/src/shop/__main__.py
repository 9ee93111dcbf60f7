"""``python -m shop`` is the command ``shop``."""

from shop.cli import main

main()
