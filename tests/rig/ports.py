import secrets
import socket
from urllib.parse import urlsplit


def free_port() -> int:
    """A loopback port nobody listens on.

    Below the range from which the kernel draws ports for outgoing connections, so that none of those takes it
    while a killed server is down.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue  # taken: draw again
            return port


def port_of(url: str) -> int:
    port = urlsplit(url).port
    if port is None:
        raise ValueError(f"the URL of a test server names its port, as in {urlsplit(url).scheme}://host:5432")
    return port
