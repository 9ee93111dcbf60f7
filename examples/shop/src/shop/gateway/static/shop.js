// Times in the reader's own zone, a countdown, and the live timeline. The pages work without any of it.
"use strict";

const two = (n) => String(n).padStart(2, "0");

function localTimes(root) {
  for (const el of root.querySelectorAll("time[datetime]")) {
    const when = new Date(el.dateTime);
    const hm = `${two(when.getHours())}:${two(when.getMinutes())}`;
    const day = when.toLocaleDateString(undefined, { day: "numeric", month: "long" });
    const seconds = `${hm}:${two(when.getSeconds())}`;
    const shapes = { minutes: hm, seconds, ms: `${seconds}.${String(when.getMilliseconds()).padStart(3, "0")}`, day: `${day}, ${hm}` };
    el.textContent = shapes[el.dataset.shape] || hm;
  }
}

function countdown() {
  for (const el of document.querySelectorAll("[data-until]")) {
    const until = Date.parse(el.dataset.until), from = Date.parse(el.dataset.from);
    const left = Math.max(0, until - Date.now());
    const seconds = Math.ceil(left / 1000);
    el.querySelector("[data-left]").textContent = `${Math.floor(seconds / 60)}:${two(seconds % 60)}`;
    el.querySelector(".left").setAttribute("stroke-dasharray", `${(100 * left) / (until - from)} 100`);
  }
  for (const el of document.querySelectorAll("[data-next]")) {
    const seconds = Math.ceil((Date.parse(el.dataset.next) - Date.now()) / 1000);
    el.textContent = seconds > 0 ? `next attempt in ${seconds} s` : "tried again";
  }
}

function cartCount(count) {
  const shown = document.querySelector(".count");
  if (!shown) return;
  if (count === "0") shown.remove();
  else shown.textContent = count;
}

// Make one tree of the page like another, touching only what differs: what the reader has focused, opened, selected
// or scrolled stays as it is. Rows carry ids, so that one that comes in between moves the others instead of
// overwriting them.
function become(old, next) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== next.nodeValue) old.nodeValue = next.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) if (!next.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  let at = old.firstChild;
  for (const child of [...next.childNodes]) {
    if (at && at.nodeName === child.nodeName && (at.id || "") === (child.id || "")) {
      const known = at;
      at = at.nextSibling;
      become(known, child);
    } else {
      old.insertBefore(child, at);
    }
  }
  while (at) {
    const rest = at;
    at = at.nextSibling;
    rest.remove();
  }
}

function show(timeline, html) {
  const next = document.createElement("template");
  next.innerHTML = html;
  // In the reader's zone before it is compared: otherwise every time on the page would change and change back.
  localTimes(next.content);
  const telling = timeline.querySelector(".telling");
  become(telling, next.content.querySelector(".telling"));
  countdown();
  cartCount(telling.dataset.cart);
  document.title = telling.dataset.title;
}

function follow(badge, timeline) {
  let source = null, again = null, over = false;
  const address = new URL(badge.dataset.stream, location.href);
  const say = (state, words) => {
    badge.className = `live ${state}`;
    badge.querySelector(".words").textContent = words;
  };
  const stop = () => {
    clearTimeout(again);
    if (source) source.close();
    source = null;
  };
  const start = () => {
    stop();
    const mine = (source = new EventSource(address));
    mine.onopen = () => say("on", "Live");
    mine.onerror = () => {
      say("paused", "The shop does not answer; trying again");
      // After a lost connection the browser comes back by itself; after an answer that is no stream it never does.
      if (mine.readyState === EventSource.CLOSED) again = setTimeout(start, 2000);
    };
    mine.addEventListener("timeline", (event) => {
      address.searchParams.set("after", event.lastEventId);
      show(timeline, event.data);
    });
    mine.addEventListener("end", () => {
      over = true;
      stop();
      say("", "The story is complete");
    });
  };
  const look = () => {
    if (over) return;
    if (!document.hidden) return start();
    stop();
    say("paused", "Paused while you are away");
  };
  document.addEventListener("visibilitychange", look);
  look();
}

localTimes(document);
countdown();
setInterval(countdown, 250);
const live = document.getElementById("live");
if (live) follow(live, document.getElementById("timeline"));
