// Sliders over networks that were measured beforehand: each position is a tile of one picture and a few numbers.
// Serves the site and notebooks. Data come by ctxnetSliders.add: a page from a disk may not fetch files.
"use strict";

window.ctxnetSliders ??= (() => {
  const WHERE = { row: ["top", "middle", "bottom"], column: ["left", "middle", "right"] };

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  // A slider, or a list where the values are words.
  function control(about, chosen, changed) {
    const output = make("output"), range = { type: "range", min: 0, max: about.values.length - 1, step: 1 };
    const input = about.list ? make("select") : make("input", range);
    if (about.list) about.values.forEach((text, i) => input.append(make("option", { value: i }, text)));
    input.value = chosen;
    const label = make("label", {}, about.label, about.list ? "" : output, input);
    const show = (used = true) => {
      output.textContent = used ? about.values[input.value] : "not used";
      input.setAttribute("aria-valuetext", output.textContent);
      input.disabled = !used;
      label.classList.toggle("sliders-off", !used);
    };
    input.addEventListener("input", () => changed());
    return { label, input, show };
  }

  function start(box, set, sheet) {
    const axes = Object.entries(WHERE).map(([name, values]) => ({ label: name, values }));
    const first = [...set.first, Math.floor(set.place / set.places), set.place % set.places];
    const all = [...set.controls, ...axes].map((about, i) => control(about, first[i], show));
    const pictures = Object.entries(set.colours).map(([name, colours]) => {
      const canvas = make("canvas", { role: "img" });
      return { canvas, colours, name, figure: make("figure", {}, canvas, make("figcaption", {}, `${name} scale`)) };
    });
    const numbers = make("p", { class: "sliders-numbers", "aria-live": "polite" });
    const legend = "White: cannot be seen. Pale: can be seen, hardly used. Blue to black: used more and more. " +
      "Dot: the feature’s place. Circle: the mean distance from it.";
    box.replaceChildren(make("div", { class: "sliders-controls" }, ...all.map((c) => c.label)),
      make("div", { class: "sliders-pictures" }, ...pictures.map((p) => p.figure)), numbers,
      make("p", { class: "sliders-note" }, legend));

    function show() {
      const value = all.map((c) => Number(c.input.value)), outer = set.controls.length - 1;
      const network = set.networks.findIndex((chosen) => chosen.every((index, i) => index < 0 || index === value[i]));
      all.forEach((c, i) => c.show(i >= outer || set.networks[network][i] >= 0));
      const place = value[outer + 1] * set.places + value[outer + 2];
      const layers = set.controls[outer].values.length, at = (network * layers + value[outer]) * set.places ** 2 + place;
      const share = 100 * set.states.rf_share[at];
      numbers.textContent = `Sees ${set.states.exact[at] ? "" : "at most "}${share.toFixed(share < 10 ? 1 : 0)} % of the image; ` +
        `mean distance ${set.states.distance[at].toFixed(1)} of ${set.size} px.`;
      const levels = tile(sheet, set.cells, value[outer] * set.places ** 2 + place, network);
      for (const picture of pictures) {
        picture.canvas.setAttribute("aria-label", `Effective receptive field, ${picture.name} scale. ${numbers.textContent}`);
        paint(picture, levels, set, at);
      }
    }
    show();
    new ResizeObserver(show).observe(pictures[0].figure); // a notebook may attach its output later, or in a hidden tab
  }

  function tile(sheet, cells, column, line) {
    const small = Object.assign(document.createElement("canvas"), { width: cells, height: cells });
    const context = small.getContext("2d", { willReadFrequently: true });
    context.drawImage(sheet, column * cells, line * cells, cells, cells, 0, 0, cells, cells);
    return context.getImageData(0, 0, cells, cells).data.filter((_, i) => i % 4 === 0).map((grey) => Math.round(grey / 17));
  }

  function paint({ canvas, colours }, levels, set, at) {
    const scale = window.devicePixelRatio || 1, side = Math.round(canvas.clientWidth * scale);
    if (!side) return;
    canvas.width = canvas.height = side; // this clears it, too
    const context = canvas.getContext("2d"), unit = side / set.cells, edge = (cell) => Math.round(cell * unit);
    levels.forEach((level, k) => {
      if (!level) return;
      const row = Math.floor(k / set.cells), column = k % set.cells;
      context.fillStyle = colours[level];
      context.fillRect(edge(column), edge(row), edge(column + 1) - edge(column), edge(row + 1) - edge(row));
    });
    const pixel = side / set.size, x = (set.states.center_column[at] + 0.5) * pixel, y = (set.states.center_row[at] + 0.5) * pixel;
    for (const [colour, width] of [["#fff", 4], ["#d55e00", 2]]) {
      Object.assign(context, { strokeStyle: colour, fillStyle: colour, lineWidth: width * scale });
      context.beginPath();
      context.arc(x, y, set.states.distance[at] * pixel, 0, 2 * Math.PI);
      context.stroke();
      context.beginPath();
      context.arc(x, y, (width + 2) * scale * 0.75, 0, 2 * Math.PI);
      context.fill();
    }
  }

  async function add(name, set) {
    const sheet = new Image();
    sheet.src = set.tiles;
    await sheet.decode();
    for (const box of document.querySelectorAll(`.sliders[data-set="${name}"]:not([data-ready])`)) {
      box.dataset.ready = "";
      start(box, set, sheet);
    }
  }

  return { add };
})();
