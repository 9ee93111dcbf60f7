"""Coupons: how many there are of each, and for whom some are set aside."""
