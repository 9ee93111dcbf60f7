# --8<-- [start:limit]
from datetime import timedelta

from txpatterns.resilience import RateLimit

logins = RateLimit("login", calls=10, per=timedelta(minutes=1), burst=3)


def login(account: str) -> tuple[int, dict[str, str]]:
    taken = logins.take(account)
    if not taken.is_allowed:
        return 429, taken.headers()
    return 200, taken.headers()


for _ in range(4):
    status, headers = login("ada")
    print(status, headers)
# --8<-- [end:limit]
