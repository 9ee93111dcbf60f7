import json
import stat
import subprocess
import sys

import pytest

from shop.given import SettingsError
from shop.settings import read_grpc_port, read_settings


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
    assert set(json.loads((tmp_path / "secrets.json").read_text())) == {"cookie", "webhook", "ids", "token"}


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
    }
    settings = read_settings(tmp_path, None, 42, False, env)
    assert (settings.port, settings.broker) == (9090, "kafka://k:9092?create_topics=6")
    assert settings.database_of("cart").endswith("/shop_cart")
    assert read_settings(tmp_path, 9091, 42, False, env).port == 9091


ADDRESSES = {
    "PRODUCT_SERVICE_ADDR": ("catalog", "127.0.0.1:50051"),
    "CATALOG_SERVICE_ADDR": ("catalog", "127.0.0.1:50051"),
    "CART_SERVICE_ADDR": ("cart", "127.0.0.1:50052"),
    "INVENTORY_SERVICE_ADDR": ("inventory", "127.0.0.1:50053"),
    "PAYMENT_SERVICE_ADDR": ("payment", "127.0.0.1:50054"),
    "ORDERS_SERVICE_ADDR": ("orders", "127.0.0.1:50055"),
    "CHECKOUT_SERVICE_ADDR": ("checkout", "127.0.0.1:50056"),
    "USERS_SERVICE_ADDR": ("users", "127.0.0.1:50057"),
}


@pytest.mark.parametrize("name", ADDRESSES)
def test_where_a_service_answers(tmp_path, name):
    """H349: each has its usual port, and each of its names says another."""
    service, usual = ADDRESSES[name]
    assert read_settings(tmp_path, None, 42, True, {}).addresses[service] == usual
    assert read_settings(tmp_path, None, 42, True, {name: "there:1"}).addresses[service] == "there:1"


def test_the_port_of_a_service_that_runs_alone():
    """H349: the command line goes before the environment."""
    assert read_grpc_port("orders", None, {}) is None
    assert read_grpc_port("orders", None, {"GRPC_PORT": "6000", "CHECKOUT_SERVICE_PORT": "1"}) == 6000
    assert read_grpc_port("checkout", None, {"CHECKOUT_SERVICE_PORT": "6000"}) == 6000
    assert read_grpc_port("checkout", 7000, {"CHECKOUT_SERVICE_PORT": "6000"}) == 7000


def test_the_checkouts_own_port_is_where_others_look_for_it(tmp_path):
    """H349: but for an address that says something else."""
    env = {"CHECKOUT_SERVICE_PORT": "6000"}
    assert read_settings(tmp_path, None, 42, True, env).addresses["checkout"] == "127.0.0.1:6000"
    env |= {"CHECKOUT_SERVICE_ADDR": "there:1"}
    assert read_settings(tmp_path, None, 42, True, env).addresses["checkout"] == "there:1"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"PRODUCT_SERVICE_ADDR": "a:1"}, {"CATALOG_SERVICE_ADDR": "a:2"}),
        ({"KAFKA_BROKERS": "a:1"}, {"KAFKA_ADDR": "a:2"}),
        ({"GRPC_PORT": "1"}, {"CHECKOUT_SERVICE_PORT": "2"}),
    ],
)
def test_two_names_that_disagree_are_refused(tmp_path, one, other):
    """H349: with both, and what each says."""
    env = {"SHOP_DATABASE": "p://x/{service}", "SHOP_BROKER": "b://x"} | one | other
    with pytest.raises(SettingsError, match="disagree") as caught:
        read_grpc_port("checkout", None, env) if "GRPC_PORT" in env else read_settings(tmp_path, None, 42, False, env)
    assert all(f"{name}={value}" in str(caught.value) for name, value in (one | other).items())


def test_a_database_named_in_parts(tmp_path):
    """H349: a database for each service on that server; what a URL could misread is escaped."""
    env = {"DB_HOST": "db", "DB_NAME": "shop", "KAFKA_ADDR": "k:9092"}
    settings = read_settings(tmp_path, None, 42, False, env)
    assert settings.database_of("cart") == "postgresql+asyncpg://postgres@db:5432/shop_cart"
    env |= {"DB_PORT": "6432", "DB_USER": "me", "DB_PASSWORD": "p@:/"}
    settings = read_settings(tmp_path, None, 42, False, env)
    assert settings.database_of("cart") == "postgresql+asyncpg://me:p%40%3A%2F@db:6432/shop_cart"
    with pytest.raises(SettingsError, match="DB_PORT must be a port"):
        read_settings(tmp_path, None, 42, False, env | {"DB_PORT": "db"})


@pytest.mark.parametrize("value", ["99999", "-1", "http", "1.5", "٣x"])
@pytest.mark.parametrize("name", ["SHOP_PORT", "HTTP_PORT", "CHECKOUT_SERVICE_PORT"])
def test_a_port_that_is_none_is_named(tmp_path, name, value):
    """H249: the message says which setting it is, what it may be, and what it was."""
    with pytest.raises(SettingsError, match=f"{name} must be a port, from 0 .* to 65535; it is '{value}'"):
        read_settings(tmp_path, None, 42, True, {name: value})


@pytest.mark.parametrize("value", ["soon", "nan", "inf", "-1", "1e9"])
@pytest.mark.parametrize("name", ["SHOP_PAYMENT_WINDOW", "SHOP_BANK_DELAY", "SHOP_AWAY"])
def test_seconds_that_are_none_are_named(tmp_path, name, value):
    """H249: so are times."""
    with pytest.raises(SettingsError, match=f"{name} must be a number of seconds"):
        read_settings(tmp_path, None, 42, True, {name: value})


def test_who_leads_a_checkout(tmp_path):
    """H249: nobody, if nothing is said; and what is none of the two is named."""
    assert read_settings(tmp_path, None, 42, True, {}).checkout == "choreographed"
    assert read_settings(tmp_path, None, 42, True, {"SHOP_CHECKOUT": "orchestrated"}).checkout == "orchestrated"
    with pytest.raises(SettingsError, match="SHOP_CHECKOUT must be one of choreographed, orchestrated; it is 'both'"):
        read_settings(tmp_path, None, 42, True, {"SHOP_CHECKOUT": "both"})


@pytest.mark.parametrize("value", ["cart", "cart:", ":1", "cart:99999", "cart:http"])
@pytest.mark.parametrize("name", [*ADDRESSES, "BANK_SERVICE_ADDR", "CART_HTTP_ADDR"])
def test_an_address_that_is_none_is_named(tmp_path, name, value):
    """H249: so are addresses."""
    with pytest.raises(SettingsError, match=f"{name} must be a host and a port"):
        read_settings(tmp_path, None, 42, True, {name: value})


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


@pytest.mark.parametrize("secret", ["changeme", "whsec_short", "whsec_" + "A" * 44])
def test_a_webhook_secret_that_protects_nothing_is_refused(tmp_path, secret):
    """H249, H368, I17: before anything is opened, by its name, and without showing it."""
    with pytest.raises(SettingsError, match="SHOP_WEBHOOK_SECRET: ") as caught:
        read_settings(tmp_path, 8080, 42, True, {"SHOP_WEBHOOK_SECRET": secret})
    assert secret not in str(caught.value)


@pytest.mark.parametrize("secret", ["changeme", "x" * 31, f"{'x' * 40} short", " "])
def test_a_token_secret_that_protects_nothing_is_refused(tmp_path, secret):
    """H249, H383: by its name, and without showing it."""
    with pytest.raises(SettingsError, match="SHOP_TOKEN_SECRET must be") as caught:
        read_settings(tmp_path, 8080, 42, True, {"SHOP_TOKEN_SECRET": secret})
    assert secret == " " or secret not in str(caught.value)


def test_a_folder_that_is_older_than_one_of_its_secrets(tmp_path):
    """H383: it gets the one that is missing, keeps the others, and stays its owner's alone."""
    before = read_settings(tmp_path, 8080, 42, True, {})
    file = tmp_path / "secrets.json"
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({name: kept[name] for name in ("cookie", "webhook")}))
    after = read_settings(tmp_path, 8080, 42, True, {})
    assert (after.cookie_secret, after.webhook_secret) == (before.cookie_secret, before.webhook_secret)
    assert after.token_secrets != before.token_secrets
    assert read_settings(tmp_path, 8080, 42, True, {}).token_secrets == after.token_secrets
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_settings_that_are_shown_show_no_secret(tmp_path):
    """H383: a log line with the settings in it tells nothing."""
    settings = read_settings(tmp_path, 8080, 42, True, {})
    for secret in (settings.cookie_secret, settings.webhook_secret, settings.id_key, *settings.token_secrets):
        assert secret not in repr(settings)
    servers = {
        "SHOP_DATABASE": "postgresql+asyncpg://me:geheim@db/{service}",
        "SHOP_BROKER": "kafka://me:geheim@k",
        "SHOP_REDIS": "redis://:geheim@r",
        "SHOP_STOCK_REDIS": "redis://:geheim@s",
    }
    assert "geheim" not in repr(read_settings(tmp_path, 8080, 42, False, servers))


def test_the_redis_of_the_stock(tmp_path):
    """H249: none, or the URL of one; what is none is refused without being shown."""
    assert read_settings(tmp_path, 8080, 42, True, {"SHOP_REDIS": "redis://r"}).stock_redis is None
    assert read_settings(tmp_path, 8080, 42, True, {"SHOP_STOCK_REDIS": "redis://s"}).stock_redis == "redis://s"
    with pytest.raises(SettingsError, match="SHOP_STOCK_REDIS must be the URL of a Redis") as caught:
        read_settings(tmp_path, 8080, 42, True, {"SHOP_STOCK_REDIS": "http://:geheim@s"})
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(("given", "wanted"), [({}, True), ({"SHOP_DEMO_USERS": "off"}, False)])
def test_demo_accounts_are_for_the_demo(tmp_path, given, wanted):
    """H383: services on real servers have no account whose password everybody knows, unless somebody says so."""
    assert read_settings(tmp_path, 8080, 42, True, given).demo_users is wanted
    servers = {"SHOP_DATABASE": "p://x/{service}", "SHOP_BROKER": "b://x"}
    assert read_settings(tmp_path, 8080, 42, False, given | servers).demo_users is False
    with pytest.raises(SettingsError, match="SHOP_DEMO_USERS must be on or off; it is 'maybe'"):
        read_settings(tmp_path, 8080, 42, True, {"SHOP_DEMO_USERS": "maybe"})
