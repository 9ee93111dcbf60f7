"""Calls to others that may be away, slow or overloaded: what stands in front of them, each part usable alone.

Each module loads its own library, from the extra ``resilience``, and only when used:

* ``txpatterns.resilience.breaker``: ``CircuitBreaker``
* ``txpatterns.resilience.bulkhead``: ``Bulkhead``, which needs none
* ``txpatterns.resilience.retrying``: ``Retrying``
* ``txpatterns.resilience.limits``: ``RateLimit``, which needs none; ``limits_redis``: ``RedisBuckets``
* ``txpatterns.resilience.cache``: ``Cache``, which needs none; ``entries_redis``: ``RedisEntries``
* ``txpatterns.resilience.shared``: ``SharedBreakers``
* ``txpatterns.resilience.outages``: ``is_outage``
"""
