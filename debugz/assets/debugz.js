"use strict";
// Follows the node: fetches the page's content again and again, and changes what has changed.
(() => {
  const main = document.getElementById("main");
  const query = document.getElementById("q");
  const live = document.getElementById("live");
  const pause = document.getElementById("pause");
  const refresh = Number(document.body.dataset.refresh) || 1000;
  let timer = 0, round = 0, paused = false;

  function parameters() {
    const p = new URLSearchParams(location.search);
    p.delete("q");
    if (query.value.trim()) p.set("q", query.value.trim());
    return p.toString();
  }

  function show(state, text) {
    pause.className = state;
    pause.lastElementChild.textContent = text;
    pause.setAttribute("aria-pressed", String(paused));
  }

  async function update() {
    clearTimeout(timer);
    const mine = ++round; // an answer to an older question is too late
    const abort = new AbortController();
    const patience = setTimeout(() => abort.abort(), 5000);
    try {
      const p = parameters();
      const method = main.querySelector("[data-watched]") ? "POST" : "GET"; // traces go on while they are on the page
      const answer = await fetch("live.html" + (p ? "?" + p : ""), { signal: abort.signal, method });
      if (!answer.ok) throw new Error(answer.statusText);
      const text = await answer.text();
      if (mine !== round) return;
      morphChildren(main, new DOMParser().parseFromString(text, "text/html").body);
      if (!paused) show("", "live");
    } catch {
      if (mine !== round) return;
      if (!paused) show("gone", "no answer");
    } finally {
      clearTimeout(patience);
    }
    if (mine === round && !paused) timer = setTimeout(update, document.hidden ? 5 * refresh : refresh);
  }

  // morph makes a look like b and leaves what is the same as it is: a selection and the place on the page stay.
  function morph(a, b) {
    if (a.nodeType !== b.nodeType || a.nodeName !== b.nodeName || key(a) !== key(b)) {
      a.replaceWith(b);
      return;
    }
    if (a.nodeType === Node.TEXT_NODE) {
      if (a.data !== b.data) a.data = b.data;
      return;
    }
    if (a.nodeType !== Node.ELEMENT_NODE) return;
    for (const { name, value } of b.attributes) if (a.getAttribute(name) !== value) a.setAttribute(name, value);
    for (const { name } of [...a.attributes]) if (!b.hasAttribute(name)) a.removeAttribute(name);
    morphChildren(a, b);
  }

  function morphChildren(a, b) {
    const known = new Map();
    for (const n of a.children) if (key(n)) known.set(key(n), n);
    let at = a.firstChild;
    for (const n of [...b.childNodes]) {
      const same = known.get(key(n));
      if (same) {
        if (same === at) at = at.nextSibling;
        else a.insertBefore(same, at);
        morph(same, n);
      } else if (key(n) || !at || key(at)) {
        a.insertBefore(n, at);
      } else {
        const old = at;
        at = at.nextSibling;
        morph(old, n);
      }
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  function key(n) {
    return n.nodeType === Node.ELEMENT_NODE ? n.getAttribute("data-key") || "" : "";
  }

  let typing = 0;
  query.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      const p = parameters();
      history.replaceState(null, "", p ? "?" + p : location.pathname);
      update();
    }, 120);
  });
  query.form.addEventListener("submit", (e) => {
    e.preventDefault();
    update();
  });
  main.addEventListener("click", (e) => {
    const link = e.target.closest("a.sort");
    if (!link || e.ctrlKey || e.metaKey || e.shiftKey) return;
    e.preventDefault();
    history.replaceState(null, "", link.href);
    update();
  });
  pause.addEventListener("click", () => {
    paused = !paused;
    if (paused) {
      clearTimeout(timer);
      show("off", "paused");
    } else update();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !paused) update();
  });
  live.hidden = false;
  timer = setTimeout(update, refresh);
})();
