"""Who buys: accounts, their passwords, and how long somebody stays signed in."""
