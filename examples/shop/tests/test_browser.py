"""The storefront in a real browser: what a person sees, in both colour schemes, on a small screen, by keyboard."""

import signal
import socket
import subprocess
import sys

import httpx
import pytest
from playwright import sync_api as playwright

from shop.catalog.seed import products
from shop.users.seed import DEMO_PASSWORD

pytestmark = [pytest.mark.browser, pytest.mark.timeout(480)]
PATIENCE = 60_000
PLENTY = next(product.sku for product in products(42) if product.stock == 40)
"""Something that these tests do not sell out."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The address of a shop in a process of its own."""
    data = tmp_path_factory.mktemp("shop")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "shop", "up", "--headless", "--data", str(data), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert "Store" in running.stdout.readline()
        address = f"http://127.0.0.1:{port}"
        httpx.get(f"{address}/health", timeout=60).raise_for_status()
        yield address
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0


@pytest.fixture
def page(browser, store):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=store)
    context.set_default_timeout(PATIENCE)
    opened = context.new_page()
    complaints = []
    opened.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    context.close()
    assert complaints == []


def order(page, method):
    page.goto(f"/products/{PLENTY}")
    page.get_by_role("button", name="Put into the cart").click()
    page.get_by_role("link", name="To the checkout").click()
    page.locator(f"input[value={method}]").check()
    page.get_by_role("button", name="Order and pay").click()
    page.wait_for_url("**/orders/*")


def checkout_in(context, sku=None):
    """A window of its own on the checkout; first it puts something in, if named."""
    window = context.new_page()
    if sku is not None:
        window.goto(f"/products/{sku}")
        window.get_by_role("button", name="Put into the cart").click()
        window.wait_for_url("**/cart")
    window.goto("/checkout")
    window.locator("input[value=succeed]").check()
    return window


def test_two_windows_of_one_cart(page, tmp_path):
    """P2, H240: both buttons of one cart lead to one order, paid once, with the amount that they said."""
    first, second = checkout_in(page.context, PLENTY), checkout_in(page.context)
    button = first.get_by_role("button", name="Order and pay")
    said = button.inner_text()
    assert second.get_by_role("button", name="Order and pay").inner_text() == said
    button.click()
    first.wait_for_url("**/orders/*")
    second.get_by_role("button", name="Order and pay").click()
    second.wait_for_url("**/orders/*")
    assert second.url == first.url
    assert "ordered already" in second.locator(".notice").inner_text()
    assert first.locator(".notice").count() == 0
    second.get_by_role("heading", name="Confirmed").wait_for()
    second.reload()
    assert second.locator(".notice").count() == 0
    assert second.locator(".sum.all .num").inner_text() == said.removeprefix("Order and pay ")
    first.goto("/orders")
    assert first.locator(".orders li").count() == 1
    second.screenshot(path=tmp_path / "second.png", full_page=True)


def test_a_window_that_shows_an_old_amount(page, tmp_path):
    """H240: the cart grew in the other window: nothing is charged, the new amount is shown, and that one is charged."""
    old = checkout_in(page.context, PLENTY)
    button = old.get_by_role("button", name="Order and pay")
    said = button.inner_text()
    other = checkout_in(page.context, PLENTY)
    button.click()
    old.get_by_role("alert").wait_for()
    assert "changed in another window" in old.get_by_role("alert").inner_text()
    old.screenshot(path=tmp_path / "changed.png", full_page=True)
    now = button.inner_text()
    assert now == other.get_by_role("button", name="Order and pay").inner_text() != said
    button.click()
    old.wait_for_url("**/orders/*")
    assert old.locator(".sum.all .num").inner_text() == now.removeprefix("Order and pay ")
    other.goto("/orders")
    assert other.locator(".orders li").count() == 1


def sign_in(page, who):
    page.goto("/")
    page.get_by_role("link", name="Sign in").click()
    page.get_by_label("E-mail address").fill(f"{who}@example.com")
    page.get_by_label("Password", exact=True).fill(DEMO_PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/account")


def goods(page):
    page.goto("/cart")
    return sorted(line.inner_text() for line in page.locator(".goods h2").all())


def test_two_users_in_two_browsers_see_two_carts(browser, store, tmp_path):
    """H384: each has their own; what was put in before signing in comes along, and is there in a third browser, too."""
    contexts = [browser.new_context(viewport={"width": 1280, "height": 900}, base_url=store) for _ in range(3)]
    adas, bens, adas_phone = (context.new_page() for context in contexts)
    adas.goto(f"/products/{PLENTY}")
    adas.get_by_role("button", name="Put into the cart").click()
    adas.wait_for_url("**/cart")
    sign_in(adas, "ada")
    adas.screenshot(path=tmp_path / "account.png")
    sign_in(bens, "ben")
    assert goods(bens) == []
    bens.goto("/products/PLAY-01")
    bens.get_by_role("button", name="Put into the cart").click()
    bens.wait_for_url("**/cart")
    (hers,), (his,) = goods(adas), goods(bens)
    assert hers != his
    adas.screenshot(path=tmp_path / "adas-cart.png")
    bens.screenshot(path=tmp_path / "bens-cart.png")
    sign_in(adas_phone, "ada")
    assert goods(adas_phone) == [hers]
    names = {cookie["name"]: cookie for cookie in contexts[0].cookies()}
    assert all(cookie["httpOnly"] and cookie["sameSite"] == "Lax" for cookie in names.values())
    assert adas.evaluate("document.cookie") == ""
    contexts[0].clear_cookies(name="shop_access")
    assert goods(adas) == [hers]
    assert "shop_access" in {cookie["name"] for cookie in contexts[0].cookies()}
    adas.goto("/account")
    adas.get_by_role("button", name="Sign out").click()
    adas.get_by_role("link", name="Sign in").wait_for()
    assert goods(adas) == []
    for context in contexts:
        context.close()


def test_an_account_without_a_script(browser, store, tmp_path):
    """Register, a wrong password, sign in, sign out: forms alone."""
    context = browser.new_context(java_script_enabled=False, base_url=store)
    page = context.new_page()
    page.goto("/register")
    page.screenshot(path=tmp_path / "register.png")
    page.get_by_label("What we call you").fill("Grace")
    page.get_by_label("E-mail address").fill("grace@example.com")
    page.get_by_label("Password", exact=True).fill("long enough")
    page.get_by_role("button", name="Register and sign in").click()
    page.get_by_role("heading", name="Hello, Grace").wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.goto("/login?then=/orders")
    page.get_by_label("E-mail address").fill("grace@example.com")
    page.get_by_label("Password", exact=True).fill("not this one")
    page.get_by_role("button", name="Sign in").click()
    assert "do not belong together" in page.get_by_role("alert").inner_text()
    page.screenshot(path=tmp_path / "wrong.png")
    page.get_by_label("Password", exact=True).fill("long enough")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/orders")
    context.close()


def test_the_api_is_tried_without_a_network(browser, store, tmp_path):
    """H243: Swagger UI works with every other address cut off, and asks for none."""
    context = browser.new_context(base_url=store)
    context.set_default_timeout(PATIENCE)
    page, elsewhere, complaints = context.new_page(), [], []
    page.on(
        "request", lambda asked: elsewhere.append(asked.url) if not asked.url.startswith((store, "data:")) else None
    )
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.goto("/docs")
    page.locator("#operations-health-health").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    page.locator(".live-responses-table .response-col_status").get_by_text("200").wait_for()
    page.screenshot(path=tmp_path / "docs.png", full_page=True)
    context.close()
    assert (elsewhere, complaints) == ([], [])


def test_the_story_goes_on_while_the_page_is_open(page, tmp_path):
    """The page tells each event as it happens, without being loaded again."""
    order(page, "succeed")
    page.evaluate("window.sameLoad = true")
    page.get_by_role("heading", name="Confirmed").wait_for()
    # Two services tell the last two events, in whichever order.
    for words in ("We took what you bought out of your cart.", "taken from the shelf and packed."):
        page.get_by_text(words).wait_for()
    assert page.evaluate("window.sameLoad") is True
    assert page.title().startswith("Confirmed")
    page.get_by_text("Engineer's view").click()
    rows = page.locator(".events li")
    assert rows.count() == 8
    assert "order.created" in rows.first.inner_text()
    rows.nth(1).get_by_role("button", name="Look inside").click()
    assert '"order_id"' in page.locator("[popover]:popover-open pre").inner_text()
    page.screenshot(path=tmp_path / "order.png", full_page=True)


def test_a_compensation_is_drawn_while_it_happens(page, tmp_path):
    """One button, by keyboard: an order that fails; below each step that was done stands what undid it, in words."""
    page.goto("/")
    page.get_by_role("button", name="Show me a compensation").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/orders/*")
    page.evaluate("window.sameLoad = true")
    page.get_by_role("heading", name="Canceled").wait_for()
    steps = page.locator(".course > li")
    playwright.expect(steps.locator(".undo")).to_have_count(3, timeout=PATIENCE)
    told = [" ".join(step.inner_text().split()) for step in steps.all()]
    assert [words.partition(" ")[2] for words in told] == [
        "Open a session done ↩ Session failed undone third",
        "Set stock aside done ↩ Stock put back undone second",
        "Ask for the money done ↩ Charge undone undone first",
        "Wait for the bank failed the bank declined",
        "Complete not reached",
    ]
    assert page.evaluate("window.sameLoad") is True
    boxes = [(step.locator(".do").bounding_box(), step.locator(".undo").bounding_box()) for step in steps.all()[:3]]
    assert all(undo["y"] > do["y"] + do["height"] and undo["x"] == do["x"] for do, undo in boxes)
    assert page.evaluate(CONTRAST) == []
    page.screenshot(path=tmp_path / "compensation.png", full_page=True)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [(step.locator(".do").bounding_box(), step.locator(".undo").bounding_box()) for step in steps.all()[:3]]
    assert all(undo["x"] > do["x"] + do["width"] and undo["y"] == do["y"] for do, undo in boxes)
    page.screenshot(path=tmp_path / "compensation-small.png", full_page=True)


def test_news_leaves_alone_what_the_reader_does(page):
    """While news comes in, what is open stays open, what has the focus keeps it, and nothing jumps."""
    order(page, "silent")
    page.get_by_text("We asked the bank for").wait_for()
    place = "document.querySelector('.story').getBoundingClientRect().top"
    before = page.evaluate(place)
    page.get_by_text("Engineer's view").click()
    row = page.locator(".events li").nth(1)
    row.get_by_role("button", name="Look inside").click()
    inside = page.locator("[popover]:popover-open")
    inside.locator("pre").focus()
    page.evaluate("window.opened = document.querySelector(':popover-open'), window.focused = document.activeElement")
    page.evaluate("fetch(location.href.replace('/orders', '/api/v1/orders') + '/cancel', {method: 'POST'})")
    page.locator(".events code").get_by_text("order.canceled").wait_for()
    assert page.evaluate("opened.matches(':popover-open') && focused === document.activeElement")
    page.keyboard.press("Escape")
    assert inside.count() == 0
    page.get_by_text("The story", exact=True).click()
    page.get_by_role("heading", name="Canceled").wait_for()
    assert page.evaluate(place) == before


def test_the_story_goes_on_after_the_shop_was_killed(browser, process):
    """P1, P7: the shop dies while the page is open, and comes back on the same folder: the page hears the rest."""
    process.env |= {"SHOP_PAYMENT_WINDOW": "6"}
    process.start()
    context = browser.new_context(base_url=process.url)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    order(page, "silent")
    page.evaluate("window.sameLoad = true")
    process.end(signal.SIGKILL)
    page.get_by_text("The shop does not answer; trying again").wait_for()
    process.start()
    page.get_by_role("heading", name="Canceled").wait_for()
    playwright.expect(page.locator("#live")).to_have_text("Live", timeout=PATIENCE)
    assert page.evaluate("window.sameLoad") is True
    context.close()
    assert process.end() == 0


def test_it_pauses_while_nobody_looks(page):
    """A hidden page stops listening and says so; shown again, it goes on."""
    order(page, "silent")
    live = page.locator("#live")
    playwright.expect(live).to_have_text("Live", timeout=PATIENCE)
    hide = "value => {Object.defineProperty(document, 'hidden', {value, configurable: true});"
    page.evaluate(hide + "document.dispatchEvent(new Event('visibilitychange'))}", True)
    playwright.expect(live).to_have_text("Paused while you are away")
    page.evaluate(hide + "document.dispatchEvent(new Event('visibilitychange'))}", False)
    playwright.expect(live).to_have_text("Live", timeout=PATIENCE)
    page.get_by_role("button", name="Call it off").click()
    page.get_by_role("heading", name="Canceled").wait_for(timeout=PATIENCE)


def test_by_keyboard(page):
    """The first stop of the keyboard leads past the frame; the switch of views is reached and turned by keys."""
    order(page, "succeed")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.locator("#view-story").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".graph").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_small_screen_needs_no_sideways_scrolling(browser, store, scheme):
    context = browser.new_context(viewport={"width": 390, "height": 844}, base_url=store, color_scheme=scheme)
    page = context.new_page()
    order(page, "silent")
    mine = page.url
    for path in (
        "/",
        "/products/PLAY-01",
        "/cart",
        "/checkout",
        "/orders",
        "/login",
        "/register",
        mine,
        "/api/v1",
        "/api/v1/problems",
        "/nowhere",
    ):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")
    context.close()


def test_without_a_script(browser, store):
    context = browser.new_context(java_script_enabled=False, base_url=store)
    page = context.new_page()
    order(page, "succeed")
    for _ in range(200):
        if page.get_by_role("heading", name="Confirmed").count():
            break
        page.reload()
    page.get_by_role("heading", name="Confirmed").wait_for(timeout=PATIENCE)
    context.close()


CONTRAST = """() => {
  const lum = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const read = s => { const n = s.match(/[\\d.]+/g).map(Number);
    return {rgb: n.slice(0, 3), a: n.length > 3 ? n[3] : 1}; };
  const bad = [];
  for (const el of document.querySelectorAll('body *')) {
    const own = [...el.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !el.checkVisibility() || el.closest('.hidden, svg')) continue;
    let ground = null;
    for (let up = el; up && !ground; up = up.parentElement) {
      const c = read(getComputedStyle(up).backgroundColor); if (c.a === 1) ground = c.rgb; }
    const style = getComputedStyle(el), ink = read(style.color).rgb, a = lum(ink), b = lum(ground);
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5))
      bad.push([el.className || el.tagName, ratio.toFixed(2), el.textContent.trim().slice(0, 30)]);
  }
  return bad;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser, store, scheme):
    """Text keeps the AA ratio to what is behind it: 4.5, or 3 where it is large."""
    context = browser.new_context(base_url=store, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    order(page, "silent")
    mine = page.url
    for path in (
        "/",
        "/products/PLAY-01",
        "/cart",
        "/checkout",
        "/orders",
        "/login",
        "/register",
        "/api/v1",
        "/nowhere",
        mine,
    ):
        page.goto(path)
        assert page.evaluate(CONTRAST) == [], path
    page.get_by_text("Engineer's view").click()
    assert page.evaluate(CONTRAST) == []
    context.close()
