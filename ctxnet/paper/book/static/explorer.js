// One photograph, one feature of one network: what it can see of it, what it uses of it, and how far away that is.
// The numbers of a row come as a script, explorer/<row>.js, which calls ctxnetExplorer.add: a page that is opened from
// a folder may not fetch files. The photograph is an <img> below the canvas, so the canvas holds the marks alone.
"use strict";

window.ctxnetExplorer = (() => {
  const REFERENCE = "resnet50";
  const LEVELS = 15; // steps of either map above nothing
  const VEIL = 0.72; // opacity over what cannot be seen
  // One hue, from thin to thick over a grey photograph, so that a larger step is always the more colourful one.
  const HEAT = Array.from({ length: LEVELS }, (_, i) => {
    const t = i / (LEVELS - 1);
    return [225 + 30 * t, 105 + 85 * t, 10 + 75 * t, 0.1 + 0.75 * t];
  });

  const find = (id) => document.getElementById(`explorer-${id}`);
  const canvas = find("canvas"), chart = find("chart"), rows = find("row"), slider = find("block");
  const records = {}, loading = {};
  // shown: the record on the page, null after a failure; last: the one that block and place belong to
  const state = { row: "", block: 0, place: 0, shown: null, last: null };

  // ---- data

  function load(row) {
    return (loading[row] ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `explorer/${row}.js`;
      script.onload = () => (records[row] ? resolve(decode(records[row])) : reject(new Error(row)));
      script.onerror = () => reject(new Error(row));
      document.head.append(script);
    }).catch((error) => {
      delete loading[row]; // so that choosing the row again tries again
      throw error;
    }));
  }

  async function decode(record) {
    const image = new Image();
    image.src = record.maps;
    await image.decode();
    const sheet = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
    const context = sheet.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    record.tile = (block, place) => {
      const n = record.cells;
      return context.getImageData(place * n, block * n, n, n).data.filter((_, i) => i % 4 === 0);
    };
    return record;
  }

  // ---- state, and its copy in the address

  const label = (row) => rows.querySelector(`option[value="${CSS.escape(row)}"]`)?.textContent.trim();
  const places = (record) => record.places ** 2;
  const index = () => state.block * places(state.shown) + state.place;
  const middle = (record) => Math.floor(places(record) / 2);
  const rowAndColumn = () => [Math.floor(state.place / state.shown.places) + 1, (state.place % state.shown.places) + 1];

  async function choose(row, layer = null, place = null) {
    state.row = rows.value = row;
    for (const element of document.querySelectorAll(".explorer-name")) element.textContent = row;
    const record = await load(row).catch(() => null);
    if (state.row !== row) return; // another one was chosen meanwhile
    if (!record) return fail(row);
    // the wanted block, or the same one as before, or one as deep
    const { last } = state, depth = last ? state.block / Math.max(last.layers.length - 1, 1) : 0.5;
    const named = record.layers.indexOf(layer ?? last?.layers[state.block]);
    state.block = named >= 0 ? named : Math.round(depth * (record.layers.length - 1));
    const [i, j] = (place ?? "").split(",").map((text) => Number(text) - 1);
    const known = [i, j].every((k) => Number.isInteger(k) && k >= 0 && k < record.places);
    state.place = known ? i * record.places + j : last ? state.place : middle(record);
    state.shown = state.last = record;
    say("");
    show();
    if (label(REFERENCE)) load(REFERENCE).then(drawChart, () => {}); // without it the chart has one line
  }

  function fail(row) {
    state.shown = null;
    say(`explorer/${row}.js did not load, so “${label(row)}” cannot be shown. Choose another, or build the site again.`);
    canvas.setAttribute("aria-label", `${label(row)}: not loaded.`);
    for (const id of ["layer", "now-layer", "now-place", "now-rf", "now-erf", "now-distance"]) find(id).textContent = "–";
    enable(false);
    draw();
    drawChart();
  }

  const say = (text) => Object.assign(find("message"), { textContent: text, hidden: !text });

  const enable = (on) => ["block", "rf", "erf", "middle"].forEach((id) => (find(id).disabled = !on));

  async function readHash() {
    const wanted = new URLSearchParams(location.hash.slice(1)), row = wanted.get("row"), known = label(row ?? "");
    if (row === null && state.last) return; // some other link within the page
    await choose(known ? row : label(REFERENCE) ? REFERENCE : rows.value, wanted.get("block"), wanted.get("place"));
    if (row && !known) say(`The address names “${row}”, which is not among the networks here.`);
  }

  function move(block, place) {
    if (block === state.block && place === state.place) return;
    Object.assign(state, { block, place });
    show();
  }

  // ---- what is shown

  const percent = (share) => `${(100 * share).toFixed(share < 0.01 ? 2 : 1)}\u00a0%`;

  function show() {
    const record = state.shown, at = index(), layer = record.layers[state.block], [i, j] = rowAndColumn();
    const distance = record.distance[at], erf = record.erf90[at], size = record.size;
    const values = {
      "layer": `${layer}, ${state.block + 1} of ${record.layers.length}`,
      "now-layer": layer,
      "now-place": `row ${i}, column ${j} of ${record.places}`,
      "now-rf": percent(record.rf[at]),
      "now-erf": erf === null ? "no gradient" : percent(erf),
      "now-distance": distance === null ? "no gradient" : `${distance.toFixed(1)}\u00a0px (${percent(distance / size)})`,
    };
    for (const [id, text] of Object.entries(values)) find(id).textContent = text;
    Object.assign(slider, { max: record.layers.length - 1, value: state.block });
    slider.setAttribute("aria-valuetext", values.layer);
    canvas.setAttribute("aria-label", `${label(state.row)}, ${layer}, position ${values["now-place"]}: ` +
      `the receptive field is ${values["now-rf"]} of the picture, 90 % of the effective one lie in ${values["now-erf"]}; ` +
      `mean distance ${values["now-distance"]} of the side.`);
    enable(true);
    history.replaceState(null, "", `#row=${state.row}&block=${layer}&place=${i},${j}`);
    draw();
    drawChart();
  }

  function draw() {
    const record = state.shown, scale = window.devicePixelRatio || 1;
    const rf = find("rf").checked, erf = find("erf").checked && record !== null;
    canvas.width = canvas.height = Math.round(canvas.clientWidth * scale); // this clears it, too
    find("picture").classList.toggle("with-erf", erf);
    if (!record || !canvas.width) return;
    const context = canvas.getContext("2d"), unit = canvas.width / record.size, at = index();
    const edge = (px) => Math.round(px * unit);
    const left = edge(record.left[at]), top = edge(record.top[at]);
    const width = edge(record.left[at] + record.side[at]) - left, height = edge(record.top[at] + record.side[at]) - top;
    const cells = record.tile(state.block, state.place);
    const paint = (colour) => context.drawImage(tile(record.cells, cells, colour), left, top, width, height);
    context.imageSmoothingEnabled = false;
    if (rf) {
      context.fillStyle = `rgba(0, 0, 0, ${VEIL})`;
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.clearRect(left, top, width, height);
      paint((cell) => [0, 0, 0, VEIL * (1 - (cell % 16) / LEVELS)]);
    }
    if (erf) paint((cell) => HEAT[(cell >> 4) - 1] ?? [0, 0, 0, 0]);
    if (rf) outline(context, record.cells, cells, left, top, width / record.cells, height / record.cells, scale);
    marks(context, record, at, unit, scale);
  }

  function tile(n, cells, colour) {
    const small = Object.assign(document.createElement("canvas"), { width: n, height: n });
    const pixels = new ImageData(n, n);
    cells.forEach((cell, k) => {
      const [red, green, blue, opacity] = colour(cell);
      pixels.data.set([red, green, blue, 255 * opacity], 4 * k);
    });
    small.getContext("2d").putImageData(pixels, 0, 0);
    return small;
  }

  // A thin line between the cells that hold a pixel of the receptive field and those that hold none.
  function outline(context, n, cells, left, top, width, height, scale) {
    const seen = (i, j) => i >= 0 && j >= 0 && i < n && j < n && cells[i * n + j] % 16 > 0;
    context.beginPath();
    for (let i = 0; i <= n; i++) {
      for (let j = 0; j <= n; j++) {
        const x = left + j * width, y = top + i * height;
        if (seen(i, j) !== seen(i - 1, j)) context.moveTo(x, y), context.lineTo(x + width, y);
        if (seen(i, j) !== seen(i, j - 1)) context.moveTo(x, y), context.lineTo(x, y + height);
      }
    }
    Object.assign(context, { lineWidth: scale, strokeStyle: "rgba(255, 255, 255, .75)" }).stroke();
  }

  // Dots: all places of the block; cross: this one; circle: the mean distance. White on black is seen on any ground.
  function marks(context, record, at, unit, scale) {
    const where = (k) => [record.column[k], record.row[k]].map((px) => (px + 0.5) * unit);
    const dots = new Path2D(), lines = new Path2D(), [x, y] = where(at), arm = 8 * scale, first = at - state.place;
    for (let k = first; k < first + places(record); k++) {
      const [left, top] = where(k), radius = 0.8 * scale;
      dots.moveTo(left + radius, top), dots.arc(left, top, radius, 0, 2 * Math.PI);
    }
    lines.moveTo(x - arm, y), lines.lineTo(x + arm, y), lines.moveTo(x, y - arm), lines.lineTo(x, y + arm);
    if (record.distance[at] !== null) {
      const radius = record.distance[at] * unit;
      lines.moveTo(x + radius, y), lines.arc(x, y, radius, 0, 2 * Math.PI);
    }
    const strokes = [[dots, "#111", 3.5], [dots, "#fff", 1.8], [lines, "#111", 4.5], [lines, "#fff", 2]];
    for (const [path, colour, line] of strokes) {
      Object.assign(context, { strokeStyle: colour, lineWidth: line * scale }).stroke(path);
    }
  }

  // ---- the chart

  function svg(tag, attributes, text = "") {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    chart.append(element);
  }

  const plot = () => ({ left: 46, right: chart.clientWidth - 12, top: 12, bottom: chart.clientHeight - 26 });
  const curve = (record) => record.layers.map((_, b) => record.distance[b * places(record) + state.place]);
  const stage = (layer) => layer?.replace(/(\.blocks)?\.\d+$/, "");

  function drawChart() {
    const record = state.shown, plain = state.row === REFERENCE ? null : records[REFERENCE];
    chart.replaceChildren();
    chart.parentElement.hidden = !record;
    find("reference").hidden = !plain;
    if (!record || !chart.clientWidth) return;
    const { left, right, top, bottom } = plot(), here = curve(record), now = here[state.block];
    // one scale for all places, so that moving the position does not move the axis
    const highest = Math.max(1, ...record.distance, ...(plain?.distance ?? []));
    const x = (b, count = here.length) => left + (count > 1 ? b / (count - 1) : 0.5) * (right - left);
    const y = (distance) => bottom - (distance / highest) * (bottom - top);
    svg("path", { class: "now", d: `M${x(state.block)} ${top}V${bottom}` });
    const step = [1, 2, 5, 10, 20, 25, 50, 100].find((s) => highest / s <= 6) ?? 200;
    for (let d = 0; d <= highest; d += step) {
      svg("path", { class: d ? "grid" : "axis", d: `M${left} ${y(d)}H${right}` });
      svg("text", { x: left - 14, y: y(d) + 4, "text-anchor": "end" }, d);
    }
    let free = -Infinity; // where the next name fits
    record.layers.forEach((layer, b) => {
      const name = stage(layer), begins = name !== stage(record.layers[b - 1]), length = 6.5 * name.length;
      const start = Math.min(x(b) - 2, right - length);
      svg("path", { class: "axis", d: `M${x(b)} ${bottom}v${begins ? 8 : 4}` });
      if (!begins || start < free) return;
      svg("text", { x: start, y: bottom + 21 }, name);
      free = start + length + 10;
    });
    const line = (values) => values.map((d, b) =>
      d === null ? "" : `${(values[b - 1] ?? null) === null ? "M" : "L"}${x(b, values.length)} ${y(d)}`).join("");
    if (plain) svg("path", { class: "reference", d: line(curve(plain)) });
    svg("path", { class: "here", d: line(here) });
    here.forEach((d, b) => d === null || svg("circle", { class: "dot", cx: x(b), cy: y(d), r: 3.5 }));
    if (now !== null) svg("circle", { class: "ring", cx: x(state.block), cy: y(now), r: 6 });
    const words = (row, record) => `${label(row)}: ${curve(record).map((d) => d?.toFixed(0) ?? "none").join(", ")}.`;
    chart.setAttribute("aria-label", `Mean distance in px over the blocks. ${words(state.row, record)} ` +
      (plain ? words(REFERENCE, plain) : ""));
  }

  // ---- controls

  const between = (k, low, high) => Math.min(Math.max(k, low), high);

  function point(event) { // to the nearest place; of equally near ones the present
    const record = state.shown;
    if (!record || !(event.buttons & 1)) return;
    const area = canvas.getBoundingClientRect(), first = state.block * places(record);
    const x = ((event.clientX - area.left) / area.width) * record.size - 0.5;
    const y = ((event.clientY - area.top) / area.height) * record.size - 0.5;
    const far = (place) => Math.hypot(record.column[first + place] - x, record.row[first + place] - y);
    let best = state.place;
    for (let place = 0; place < places(record); place++) if (far(place) < far(best)) best = place;
    move(state.block, best);
  }

  const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (!ARROWS[event.key] || !state.shown || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const n = state.shown.places, step = ARROWS[event.key];
    const [i, j] = rowAndColumn().map((k, axis) => between(k - 1 + step[axis], 0, n - 1));
    move(state.block, i * n + j);
  });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId); // so that a drag goes on outside
    point(event);
  });
  canvas.addEventListener("pointermove", point);
  chart.addEventListener("click", (event) => {
    const { left, right } = plot(), last = (state.shown?.layers.length ?? 0) - 1;
    const share = (event.clientX - chart.getBoundingClientRect().left - left) / (right - left);
    if (last >= 0) move(between(Math.round(share * last), 0, last), state.place);
  });
  rows.addEventListener("change", () => choose(rows.value));
  slider.addEventListener("input", () => move(Number(slider.value), state.place));
  find("middle").addEventListener("click", () => move(state.block, middle(state.shown)));
  find("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["rf", "erf"]) find(id).addEventListener("change", draw);
  window.addEventListener("hashchange", readHash);
  new ResizeObserver(() => (draw(), drawChart())).observe(find("picture"));

  for (const [red, green, blue, opacity] of HEAT) {
    find("heat").append(document.createElement("i"));
    find("heat").lastChild.style.background = `rgba(${red}, ${green}, ${blue}, ${opacity})`;
  }
  enable(false);
  setTimeout(readHash); // after this function has returned, for the rows' scripts need what it returns
  return { add: (row, record) => (records[row] = record) };
})();
