"""Load at a stated rate, measured from the moment at which each visitor was to begin, and checked afterwards."""
