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
}

function cartCount(count) {
  const shown = document.querySelector(".count");
  if (!shown) return;
  if (count === "0") shown.remove();
  else shown.textContent = count;
}

function follow(badge, timeline) {
  let source = null;
  const address = new URL(badge.dataset.stream, location.href);
  const say = (state, words) => {
    badge.className = `live ${state}`;
    badge.querySelector(".words").textContent = words;
  };
  const start = () => {
    if (source) return;
    source = new EventSource(address);
    source.onopen = () => say("on", "Live");
    source.onerror = () => {
      if (source) say("paused", "The shop does not answer; trying again");
    };
    source.addEventListener("timeline", (event) => {
      address.searchParams.set("after", event.lastEventId);
      timeline.innerHTML = event.data;
      localTimes(timeline);
      countdown();
      cartCount(timeline.querySelector("[data-cart]").dataset.cart);
    });
    source.addEventListener("end", () => {
      stop();
      say("", "The story is complete");
      document.removeEventListener("visibilitychange", onVisibility);
    });
  };
  const stop = () => {
    if (source) source.close();
    source = null;
  };
  const onVisibility = () => {
    if (document.hidden) {
      stop();
      say("paused", "Paused while you were away");
    } else {
      start();
    }
  };
  document.addEventListener("visibilitychange", onVisibility);
  start();
}

localTimes(document);
countdown();
setInterval(countdown, 250);
const live = document.getElementById("live");
if (live) follow(live, document.getElementById("timeline"));
