// All networks: sort, filter, compare two. Plain script with its data in the page: pages opened from a disk can fetch nothing.
(() => {
  "use strict";
  const get = (id) => document.getElementById(`networks-${id}`);
  const data = JSON.parse(get("data").textContent);
  const networks = data.networks, columns = data.columns, byName = new Map(networks.map((n) => [n.name, n]));
  const PAGE = 100, COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7b5cc4"], OTHER = "#8A8F98";
  const LOGARITHMIC = new Set(["parameters", "operations", "speed"]);
  const state = { sort: "top1", down: true, shown: PAGE, chosen: [] };

  const counts = new Map();
  for (const n of networks) if (!n.why) counts.set(n.family, (counts.get(n.family) || 0) + 1);
  const families = [...counts].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0])).map(([name]) => name);
  const colour = (family) => COLOURS[families.indexOf(family)] || OTHER;

  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  function drawn(tag, attributes = {}, text = "") {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    return node;
  }
  function broken(name) { // a narrow cell breaks it behind its underscores
    const whole = element("span");
    name.split(/(?<=_)/).forEach((part, i) => whole.append(...(i ? [element("wbr"), part] : [part])));
    return whole;
  }
  function number(network, key, decimals) {
    const value = network[key];
    return value === undefined ? "–" : value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  }

  // ---- which networks -------------------------------------------------------------------------------------------------
  function filtered() {
    const text = get("text").value.trim().toLowerCase(), family = get("family").value, most = parseFloat(get("most").value);
    return networks.filter((n) => (!text || n.name.toLowerCase().includes(text) || n.family.includes(text))
      && (!family || n.family === family) && !(n.parameters > most) && !(get("measured").checked && n.why));
  }
  function sorted(list) {
    const key = state.sort, sign = state.down ? -1 : 1;
    return [...list].sort((a, b) => {
      const x = a[key], y = b[key];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined); // the unknown last, either way
      return (typeof x === "string" ? x.localeCompare(y) : x - y) * sign || a.name.localeCompare(b.name);
    });
  }

  // ---- table ----------------------------------------------------------------------------------------------------------
  function row(network) {
    const box = element("input", { type: "checkbox", "aria-label": `compare ${network.name}` });
    box.checked = state.chosen.includes(network.name);
    box.disabled = Boolean(network.why);
    box.addEventListener("change", () => choose(network.name));
    const cells = [element("th", { scope: "row" }, element("label", {}, box, broken(network.name))), element("td", {}, network.family)];
    if (network.why) {
      cells.push(element("td", {}, number(network, "parameters", 1)), element("td", { class: "why", colspan: columns.length - 1 }, network.why));
    } else {
      for (const [key, , decimals] of columns) {
        const bound = key === "rf" && network.bound ? "≤ " : "";
        cells.push(element("td", {}, bound + number(network, key, decimals)));
      }
    }
    return element("tr", {}, ...cells);
  }
  function showTable(list) {
    get("rows").replaceChildren(...sorted(list).slice(0, state.shown).map(row));
    get("more").hidden = list.length <= state.shown;
    get("count").textContent = `${list.length} of ${networks.length} networks` + (list.length > state.shown ? `, the first ${state.shown} shown` : "");
    for (const button of document.querySelectorAll(".networks-table thead button")) {
      const here = button.dataset.key === state.sort;
      button.closest("th").setAttribute("aria-sort", here ? (state.down ? "descending" : "ascending") : "none");
    }
  }

  // ---- picture --------------------------------------------------------------------------------------------------------
  function ticks(low, high, logarithmic) {
    if (logarithmic) {
      const all = [];
      for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += 1) for (const m of [1, 3]) all.push(m * 10 ** e);
      return all.filter((v) => v >= low && v <= high);
    }
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200].find((s) => (high - low) / s <= 7) || 500, all = [];
    for (let v = Math.ceil(low / step) * step; v <= high + 1e-9; v += step) all.push(Math.round(v * 100) / 100);
    return all;
  }
  function scale(values, key, from, to) {
    const logarithmic = LOGARITHMIC.has(key), f = logarithmic ? Math.log10 : (v) => v;
    let low = Math.min(...values), high = Math.max(...values);
    if (low === high) { low *= 0.9; high = high * 1.1 + 1e-3; }
    const pad = 0.04 * (f(high) - f(low)), place = (v) => from + (to - from) * (f(v) - f(low) + pad) / (f(high) - f(low) + 2 * pad);
    return { place, ticks: ticks(low, high, logarithmic) };
  }
  function heading(key) { return columns.find(([k]) => k === key)[1]; }

  function showPlot(list) {
    const svg = get("plot"), x = get("x").value, y = get("y").value;
    const known = list.filter((n) => !n.why && n[x] > -Infinity && n[y] > -Infinity && (!LOGARITHMIC.has(x) || n[x] > 0) && (!LOGARITHMIC.has(y) || n[y] > 0));
    const box = svg.getBoundingClientRect(), width = Math.max(260, box.width), height = Math.max(200, box.height);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("aria-label", `${known.length} networks: ${heading(y)} against ${heading(x)}`);
    svg.replaceChildren();
    if (!known.length) { svg.append(drawn("text", { x: 20, y: 40 }, "No network with both numbers.")); return; }
    const across = scale(known.map((n) => n[x]), x, 48, width - 8), up = scale(known.map((n) => n[y]), y, height - 36, 8);
    for (const v of across.ticks) svg.append(drawn("line", { class: "grid", x1: across.place(v), x2: across.place(v), y1: 8, y2: height - 36 }), drawn("text", { x: across.place(v), y: height - 20, "text-anchor": "middle" }, v.toLocaleString("en")));
    for (const v of up.ticks) svg.append(drawn("line", { class: "grid", y1: up.place(v), y2: up.place(v), x1: 48, x2: width - 8 }), drawn("text", { x: 42, y: up.place(v) + 4, "text-anchor": "end" }, v.toLocaleString("en")));
    svg.append(drawn("text", { x: width - 8, y: height - 4, "text-anchor": "end" }, heading(x)), drawn("text", { x: 4, y: 12, "text-anchor": "start" }, heading(y)));
    for (const n of known) {
      const chosen = state.chosen.includes(n.name);
      const dot = drawn("circle", { cx: across.place(n[x]).toFixed(1), cy: up.place(n[y]).toFixed(1), r: chosen ? 6 : 4, fill: colour(n.family), "data-name": n.name });
      if (chosen) dot.classList.add("chosen");
      svg.append(dot);
    }
  }
  function pointed(event) {
    const name = event.target.dataset && event.target.dataset.name;
    for (const dot of get("plot").querySelectorAll(".pointed")) dot.classList.remove("pointed");
    if (!name) return;
    event.target.classList.add("pointed");
    const n = byName.get(name), x = get("x").value, y = get("y").value;
    get("pointed").textContent = `${n.name} (${n.family}): ${heading(y)} ${number(n, y, 1)}; ${heading(x)} ${number(n, x, 2)}` + (n.tag ? `; accuracy of the weights ${n.tag}` : "");
  }
  function keys() {
    const list = families.slice(0, COLOURS.length).map((f) => [f, colour(f)]).concat([["others", OTHER]]);
    const node = element("div", { class: "networks-keys" });
    for (const [name, c] of list) { const dot = element("i"); dot.style.background = c; node.append(element("span", {}, dot, name)); }
    get("plot").after(node);
  }

  // ---- two side by side -----------------------------------------------------------------------------------------------
  function choose(name) {
    state.chosen = state.chosen.includes(name) ? state.chosen.filter((n) => n !== name) : [...state.chosen, name].slice(-2);
    remember();
    const focused = document.activeElement && document.activeElement.getAttribute("aria-label");
    show();
    const again = focused && [...get("rows").querySelectorAll("input")].find((i) => i.getAttribute("aria-label") === focused);
    if (again) again.focus();
  }
  function showComparison() {
    const two = state.chosen.map((name) => byName.get(name)), place = get("compare");
    get("compare-hint").hidden = two.length > 1;
    place.replaceChildren();
    if (!two.length) return;
    const line = (label, cells) => element("tr", {}, element("th", { scope: "row" }, label), ...cells.map((c) => element("td", {}, c)));
    const head = element("tr", {}, element("th", { scope: "col" }, ""), ...two.map((n) => element("th", { scope: "col" }, n.name)));
    const body = [line("family", two.map((n) => n.family))];
    for (const [key, label, decimals] of columns) body.push(line(label, two.map((n) => (key === "rf" && n.bound ? "≤ " : "") + number(n, key, decimals))));
    body.push(line("weights of the accuracy", two.map((n) => n.tag || "–")));
    place.append(element("div", { class: "scroll", tabindex: "0" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...body))), curves(two));
  }
  function curves(two) {
    const width = 640, height = 200, svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Mean distance over the depth: ${two.map((n) => n.name).join(" and ")}` });
    const top = Math.max(10, ...two.flatMap((n) => n.curve.map(([, d]) => d))) * 1.05;
    const px = (share) => 40 + (width - 50) * share, py = (d) => height - 30 - (height - 45) * d / top;
    for (const v of ticks(0, top, false)) svg.append(drawn("line", { class: "grid", x1: 40, x2: width - 10, y1: py(v), y2: py(v) }), drawn("text", { x: 34, y: py(v) + 4, "text-anchor": "end" }, String(v)));
    svg.append(drawn("text", { x: 4, y: 10 }, "mean distance, % of side"), drawn("text", { x: width - 10, y: height - 4, "text-anchor": "end" }, "depth, first to last block"));
    two.forEach((n, i) => {
      const points = n.curve.map(([block, d]) => `${px(n.blocks > 1 ? (block - 1) / (n.blocks - 1) : 0.5).toFixed(1)},${py(d).toFixed(1)}`);
      const stroke = i ? "var(--thesis)" : "var(--ours)";
      svg.append(drawn("polyline", { points: points.join(" "), fill: "none", stroke, "stroke-width": 2, "stroke-dasharray": i ? "6 3" : "none" }));
      for (const p of points) svg.append(drawn("circle", { cx: p.split(",")[0], cy: p.split(",")[1], r: 3, fill: stroke }));
      svg.append(drawn("text", { x: 48, y: 26 + 15 * i, style: `fill:${stroke}` }, `${i ? "- -" : "—"} ${n.name}`));
    });
    return svg;
  }
  function remember() {
    try { history.replaceState(null, "", state.chosen.length ? `#${state.chosen.map(encodeURIComponent).join("&")}` : location.pathname + location.search); } catch { /* some browsers refuse on a disk */ }
  }

  function show() { const list = filtered(); showTable(list); showPlot(list); showComparison(); }
  function start() {
    for (const family of [...families].sort()) get("family").append(element("option", { value: family }, `${family} (${counts.get(family)})`));
    const known = columns.filter(([key]) => networks.some((n) => n[key] !== undefined));
    for (const axis of ["x", "y"]) for (const [key, label] of known) get(axis).append(element("option", { value: key }, label));
    get("y").value = known.some(([key]) => key === "top1") ? "top1" : "distance";
    get("x").value = get("y").value === "top1" ? "distance" : "operations";
    state.chosen = location.hash.slice(1).split("&").map(decodeURIComponent).filter((name) => byName.has(name) && !byName.get(name).why).slice(0, 2);
    const again = () => { state.shown = PAGE; show(); };
    get("controls").addEventListener("submit", (event) => event.preventDefault());
    get("controls").addEventListener("input", again);
    for (const axis of ["x", "y"]) get(axis).addEventListener("change", () => showPlot(filtered()));
    get("more").addEventListener("click", () => { state.shown += 5 * PAGE; showTable(filtered()); });
    for (const button of document.querySelectorAll(".networks-table thead button")) button.addEventListener("click", () => {
      state.down = state.sort === button.dataset.key && !state.down;
      state.sort = button.dataset.key;
      again();
    });
    get("plot").addEventListener("pointermove", pointed);
    get("plot").addEventListener("click", (event) => event.target.dataset.name && choose(event.target.dataset.name));
    window.addEventListener("resize", () => showPlot(filtered()));
    window.addEventListener("ctxnet:theme", () => showPlot(filtered()));
    keys();
    show();
  }
  start();
})();
