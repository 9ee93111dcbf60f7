import json
import stat

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
