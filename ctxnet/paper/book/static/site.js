// Theme and search. Plain script: modules and fetch are not allowed on pages opened from a disk.
(() => {
  "use strict";
  const up = document.currentScript.dataset.up;
  const root = document.documentElement;
  const themes = ["", "light", "dark"];
  const names = { "": "as the system", light: "light", dark: "dark" };

  function stored() {
    try { return localStorage.getItem("ctxnet-theme") || ""; } catch { return ""; }
  }
  function apply(theme) {
    if (theme) root.dataset.theme = theme; else delete root.dataset.theme;
    try { localStorage.setItem("ctxnet-theme", theme); } catch { /* a private window keeps nothing */ }
    const button = document.querySelector(".theme");
    if (button) {
      button.setAttribute("aria-label", `Theme: ${names[theme]}`);
      button.title = `Theme: ${names[theme]}`;
      button.firstElementChild.textContent = { "": "◐", light: "☀", dark: "☾" }[theme];
    }
    window.dispatchEvent(new Event("ctxnet:theme"));
  }
  apply(stored()); // before the first paint

  let asked = false;
  function index(then) { // loaded when somebody searches: half a page's weight that most readers never need
    if (window.ctxnetIndex) return then(window.ctxnetIndex);
    window.addEventListener("ctxnet:index", () => then(window.ctxnetIndex), { once: true });
    if (asked) return;
    asked = true;
    const script = document.createElement("script");
    script.src = `${up}static/index.js`;
    script.onload = () => window.dispatchEvent(new Event("ctxnet:index"));
    document.head.append(script);
  }

  function score(entry, words) { // every word must occur; titles count more, and so do whole words
    const heading = `${entry.title} ${entry.heading}`.toLowerCase(), text = entry.text.toLowerCase();
    let sum = 0;
    for (const word of words) {
      const inHeading = heading.includes(word), found = text.split(word).length - 1;
      if (!inHeading && !found) return 0;
      sum += (inHeading ? 10 : 0) + Math.min(found, 5) + (` ${text} `.includes(` ${word} `) ? 2 : 0);
    }
    return sum;
  }
  function excerpt(text, words) {
    const at = Math.max(0, ...words.map((word) => text.toLowerCase().indexOf(word)));
    const start = Math.max(0, at - 50);
    return (start ? "… " : "") + text.slice(start, start + 150) + (start + 150 < text.length ? " …" : "");
  }
  function marked(node, text, words) {
    const pattern = new RegExp(`(${words.map((w) => w.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`, "gi");
    text.split(pattern).forEach((part, i) => {
      if (i % 2) { const mark = document.createElement("mark"); mark.textContent = part; node.append(mark); } else node.append(part);
    });
  }

  window.addEventListener("DOMContentLoaded", () => {
    apply(stored());
    const button = document.querySelector(".theme"), input = document.querySelector(".search input"), hits = document.querySelector(".hits");
    if (!button) return;
    button.addEventListener("click", () => apply(themes[(themes.indexOf(root.dataset.theme || "") + 1) % themes.length]));
    function show(entries) {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      hits.hidden = !words.length;
      hits.replaceChildren();
      if (!words.length) return;
      const found = entries.map((entry) => [score(entry, words), entry]).filter(([s]) => s).sort((a, b) => b[0] - a[0]).slice(0, 12);
      if (!found.length) {
        const none = document.createElement("p");
        none.textContent = "Nothing found.";
        hits.append(none);
      }
      for (const [, entry] of found) {
        const link = document.createElement("a"), where = document.createElement("b"), text = document.createElement("small");
        link.href = up + entry.page;
        where.textContent = entry.heading === entry.title ? entry.title : `${entry.title} › ${entry.heading}`;
        marked(text, excerpt(entry.text, words), words);
        link.append(where, text);
        hits.append(link);
      }
    }
    input.addEventListener("input", () => index(show));
    input.addEventListener("focus", () => index(() => {}));
    document.querySelector(".search").addEventListener("submit", (event) => {
      event.preventDefault();
      const first = hits.querySelector("a");
      if (first) first.click();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { hits.hidden = true; input.blur(); }
      if (event.key === "/" && !/INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName)) { event.preventDefault(); input.focus(); }
    });
    document.addEventListener("click", (event) => { if (!event.target.closest(".search")) hits.hidden = true; });
  });
})();
