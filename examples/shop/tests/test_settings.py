import json
import stat
import subprocess
import sys

import pytest

from shop.settings import SettingsError, read_settings


def test_the_embedded_shop_needs_nothing(tmp_path):
    settings = read_settings(tmp_path / "shop", None, 42, True, {})
    assert settings.database_of("orders").endswith("/shop/orders.db")
    assert (settings.port, settings.broker) == (8080, "memory://")
    assert settings.webhook_url == "http://127.0.0.1:8080/webhooks/payments/mock"


def test_secrets_are_made_once_and_kept_to_the_owner(tmp_path):
    first = read_settings(tmp_path, None, 42, True, {})
    second = read_settings(tmp_path, None, 42, True, {})
    assert (first.cookie_secret, first.webhook_secret) == (second.cookie_secret, second.webhook_secret)
    assert first.webhook_secret.startswith("whsec_")
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    assert set(json.loads((tmp_path / "secrets.json").read_text())) == {"cookie", "webhook"}


@pytest.mark.parametrize("env", [{}, {"SHOP_DATABASE": "postgresql://x/shop"}, {"SHOP_DATABASE": "p://x/{service}"}])
def test_separate_processes_need_their_servers(tmp_path, env):
    with pytest.raises(SettingsError, match="SHOP_"):
        read_settings(tmp_path, None, 42, False, env)


def test_other_names_for_the_same_thing(tmp_path):
    """Names by which others know these settings are understood; the command line goes first."""
    env = {
        "HTTP_PORT": "9090",
        "SHOP_DATABASE": "postgresql+asyncpg://shop@h/shop_{service}",
        "KAFKA_BROKERS": "k:9092",
        "CART_SERVICE_ADDR": "cart:1",
    }
    settings = read_settings(tmp_path, None, 42, False, env)
    assert (settings.port, settings.broker) == (9090, "kafka://k:9092?create_topics=6")
    assert settings.database_of("cart").endswith("/shop_cart")
    assert settings.addresses["cart"] == "cart:1"
    assert read_settings(tmp_path, 9091, 42, False, env).port == 9091


@pytest.mark.parametrize("value", ["99999", "-1", "http", "1.5", "٣x"])
@pytest.mark.parametrize("name", ["SHOP_PORT", "HTTP_PORT"])
def test_a_port_that_is_none_is_named(tmp_path, name, value):
    """H249: the message says which setting it is, what it may be, and what it was."""
    with pytest.raises(SettingsError, match=f"{name} must be a port, from 0 .* to 65535; it is '{value}'"):
        read_settings(tmp_path, None, 42, True, {name: value})


@pytest.mark.parametrize("value", ["soon", "nan", "inf", "-1", "1e9"])
@pytest.mark.parametrize("name", ["SHOP_PAYMENT_WINDOW", "SHOP_BANK_DELAY"])
def test_seconds_that_are_none_are_named(tmp_path, name, value):
    """H249: so are times."""
    with pytest.raises(SettingsError, match=f"{name} must be a number of seconds"):
        read_settings(tmp_path, None, 42, True, {name: value})


@pytest.mark.parametrize("value", ["cart", "cart:", ":1", "cart:99999", "cart:http"])
def test_an_address_that_is_none_is_named(tmp_path, value):
    """H249: so are addresses."""
    with pytest.raises(SettingsError, match="CART_SERVICE_ADDR must be a host and a port"):
        read_settings(tmp_path, None, 42, True, {"CART_SERVICE_ADDR": value})


@pytest.mark.parametrize("port", ["99999", "-1"])
@pytest.mark.parametrize("command", [["up", "--headless"], ["run", "gateway"]])
def test_an_impossible_port_is_refused_on_the_command_line(tmp_path, command, port):
    """H249: in one line with its range, not with a traceback."""
    given = [sys.executable, "-m", "shop", *command, "--port", port, "--data", str(tmp_path)]
    ended = subprocess.run(given, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr == f"shop: --port must be a port, from 0 (any that is free) to 65535; it is '{port}'.\n"


def test_any_free_port(tmp_path):
    """H249: port 0 is the one that the system gives, for the bank's webhooks too."""
    settings = read_settings(tmp_path, 0, 42, True, {}).open_at(4711)
    assert (settings.port, settings.webhook_url) == (4711, "http://127.0.0.1:4711/webhooks/payments/mock")
    assert read_settings(tmp_path, 8081, 42, True, {}).open_at(4711).port == 8081
