"""Orders have numbers inside the shop, and texts that tell nothing in front of it."""

import json
import re
import stat
import subprocess
import sys
from uuid import UUID

import pytest
from typer.testing import CliRunner

from shop.gateway.public_ids import OrderIds
from shop.given import SettingsError
from shop.problems import Problem
from shop.settings import read_settings
from txpatterns.cli.main import app as txp
from txpatterns.errors import IdsUnavailable
from txpatterns.ids import explain

KEY = "a key of the test's own, long enough"
SKU = "PLAY-01"
HTML = {"accept": "text/html"}


def test_what_is_shown_tells_nothing():
    """H389: neighbours look unrelated; each text leads back to its number; a number leads nowhere."""
    ids = OrderIds(KEY)
    numbers = [f"{252620073519284224 + step:019}" for step in range(1000)]
    shown = [ids.hide(number) for number in numbers]
    assert [ids.reveal(text) for text in shown] == numbers
    assert ids.reveal(shown[0].upper()) == numbers[0]
    assert len({text[:4] for text in shown}) > 900
    assert all(re.fullmatch("[0-9a-z]{13}", text) for text in shown)
    assert OrderIds("another key that is long enough").hide(numbers[0]) != shown[0]


def test_what_is_told_of_an_order_has_no_number():
    """H389: wherever it stands, at any depth; other values are as they were."""
    ids, number = OrderIds(KEY), "0252620073519284224"
    told = {"order_id": number, "error": f"no payment for {number} yet", "n": 1, "in": [{"it": number}, None]}
    text = ids.hide(number)
    shown = {"order_id": text, "error": f"no payment for {text} yet", "n": 1, "in": [{"it": text}, None]}
    assert ids.masked(told, number) == shown
    old = "0196e0a4-77b1-7c3e-9f0a-3d6a5b2c1d0e"
    assert ids.masked({"order_id": old}, old) == {"order_id": old}


@pytest.mark.parametrize("text", ["0252620073519284224", "252620073519284224", "", "../../etc", "x" * 200, "\x00" * 13])
def test_what_was_never_shown_is_no_order(text):
    """H389: least of all a number, which could be tried out."""
    with pytest.raises(Problem) as caught:
        OrderIds(KEY).reveal(text)
    assert caught.value.kind.slug == "not-found"


async def test_no_answer_has_the_number(shop):
    """H389: in no route, page, event, header or problem of two orders of either kind."""
    alice = await shop.visitor()
    one = await shop.buy(alice, "succeed")
    await shop.until(alice, one, "stock.sold", "cart.settled")
    added = await alice.post("/api/v1/cart/items", json={"sku": SKU, "quantity": 1})
    wish = {"method": "silent", "mode": "orchestrated"}
    other = (await alice.post("/api/v1/checkout", json=wish)).json()["id"]
    await shop.until(alice, other, "payment.session_opened")
    again = await alice.post("/api/v1/checkout", json=wish, headers={"if-match": added.headers["etag"]})
    assert (again.status_code, again.json()["order"]) == (409, other)
    numbers = {row[0] for row in shop.rows("orders", "select id from shop_order")}
    assert {shop.number(one), shop.number(other)} == numbers
    answers = [again, await alice.get("/orders"), await alice.get("/api/v1/orders?limit=1")]
    for order in (one, other):
        answers += [await alice.get(f"/api/v1/orders/{order}{path}") for path in ("", "/timeline")]
        answers += [await alice.get(f"/orders/{order}"), await alice.get(f"/api/v1/checkout/{order}")]
    answers += [await alice.post(f"/api/v1/orders/{other}/cancel")]
    following = answers[2].json()["next"]
    answers += [await alice.get(following)]
    assert answers[-1].json()["items"][0]["id"] == one
    for answer in answers:
        told = answer.text + str(answer.headers)
        assert answer.status_code in (200, 202, 409) or answer.url.path == f"/api/v1/checkout/{one}", answer.text
        assert not [number for number in numbers if number in told or number.lstrip("0") in told], answer.url
    assert (await alice.get(f"/api/v1/checkout/{other}")).json()["order_id"] == other
    entries = (await alice.get(f"/api/v1/orders/{other}/timeline")).json()["entries"]
    assert {entry["payload"]["order_id"] for entry in entries} == {other}
    for number in numbers:
        assert (await alice.get(f"/api/v1/orders/{number}")).status_code == 404
        assert (await alice.get(f"/orders/{number}", headers=HTML)).status_code == 404
    assert (await alice.get("/api/v1/orders?after=nothing")).status_code == 404


async def test_orders_from_before_are_reachable(shop):
    """H389: an order whose id is a UUID keeps it in its address, and comes behind the newer ones."""
    alice = await shop.visitor()
    old = str(UUID("0196e0a4-77b1-7c3e-9f0a-3d6a5b2c1d0e"))
    new = [await shop.buy(alice, "silent") for _ in range(2)]
    columns = "checkout_id, visitor_id, status, canceling, lines, total_minor, currency, method, created_at, pay_by"
    others = columns.removeprefix("checkout_id, ").replace("status", "'PENDING'")
    await shop.change(
        "orders",
        f"insert into shop_order (id, {columns}) select '{old}', 'c', {others} from shop_order limit 1",
    )
    assert (await alice.get(f"/api/v1/orders/{old}")).json()["id"] == old
    assert (await alice.get(f"/orders/{old}")).status_code == 200
    listed, address = [], "/api/v1/orders?limit=1"
    while address:
        page = (await alice.get(address)).json()
        listed += [order["id"] for order in page["items"]]
        address = page["next"]
    assert listed == [*reversed(new), old]
    assert (await alice.post(f"/api/v1/orders/{old}/cancel")).json()["id"] == old
    await shop.until(alice, old, "order.cancel_requested")


async def test_no_number_no_order(shop, monkeypatch):
    """H389: 503, and nothing is stored, where neither source has any; the same checkout again makes it later."""
    alice = await shop.visitor()
    await alice.post("/api/v1/cart/items", json={"sku": SKU, "quantity": 1})
    with monkeypatch.context() as patch:

        def none(self):
            raise IdsUnavailable("the store is away.")

        patch.setattr("txpatterns.ids.SnowflakeGenerator.next_id", none)
        instead = await shop.buy(alice, "silent")  # from a block of the database
        assert explain(int(shop.number(instead))).worker == 1023
        await alice.post("/api/v1/cart/items", json={"sku": SKU, "quantity": 1})
        patch.setattr("txpatterns.ids.DatabaseBlocks.next_id", none)
        refused = await alice.post("/api/v1/checkout", json={"method": "silent"}, headers={"idempotency-key": "k"})
    assert (refused.status_code, refused.json()["type"]) == (503, "/api/v1/problems/unavailable")
    assert shop.rows("orders", "select count(*) from shop_order") == [(1,)]
    placed = await alice.post("/api/v1/checkout", json={"method": "silent"}, headers={"idempotency-key": "k"})
    assert placed.status_code == 202


def run(*command):
    ended = subprocess.run([sys.executable, "-m", *command], check=False, capture_output=True, text=True, timeout=120)
    return ended.returncode, ended.stdout.strip(), ended.stderr.strip()


def test_from_what_is_shown_to_what_it_says(tmp_path):
    """H389: `shop id` gives an order's number, for `txp ids explain` and for SQL; and the other way round."""
    key = read_settings(tmp_path, None, 42, True, {}).id_key
    number = "0252620073519284224"
    shown = OrderIds(key).hide(number)
    data = ("--data", str(tmp_path))
    assert run("shop", "id", shown, *data) == (0, number, "")
    assert run("shop", "id", number, *data) == (0, shown, "")
    told = CliRunner().invoke(txp, ["ids", "explain", number, "--json"])
    assert (told.exit_code, json.loads(told.stdout)["id"]) == (0, number.lstrip("0"))
    for nonsense in ("nonsense", "9" * 19):
        code, _, said = run("shop", "id", nonsense, *data)
        assert (code, said) == (2, f"shop: '{nonsense}' stands for no order of the shop in {tmp_path}.")


def test_a_shop_that_is_older_gets_a_key(tmp_path):
    """H389, I17: its other secrets stay; the key stays too, for what was shown must lead back; nobody else reads it."""
    file = tmp_path / "secrets.json"
    file.write_text('{"cookie": "kept", "webhook": "whsec_' + "QUJD" * 8 + '"}')
    first, second = (read_settings(tmp_path, None, 42, True, {}) for _ in range(2))
    assert (first.cookie_secret, first.id_key) == ("kept", second.id_key)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {each.name for each in tmp_path.iterdir()} == {"secrets.json", "secrets.lock"}
    with pytest.raises(SettingsError, match="SHOP_ID_KEY: ") as caught:
        read_settings(tmp_path, None, 42, True, {"SHOP_ID_KEY": "changeme"})
    assert "changeme" not in str(caught.value)
