"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const PAGE = 60, CLICK = 4, ANY = "any", WRONG = "wrong", GREY = "#8a8f98";
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
const SHAPES = [["circle", "●"], ["square", "■"], ["triangle-up", "▲"], ["diamond", "◆"], ["cross", "✚"]];
const MODES = { classes: "class", result: "right or wrong", split: "split" };
const items = data.items, n = items.id.length, every = [...Array(n).keys()];
const tested = (i) => items.predicted[i] >= 0, wrong = (i) => tested(i) && items.predicted[i] !== items.label[i];
const nameOf = (c) => (c < 0 ? "no class" : data.classes[c]);
const views = (window.views = {}); // also for who wants to look into a chart
let mode = "classes", filter = { t: ANY, p: ANY, lasso: null, list: null, title: "" }, shown = [], count = PAGE, drawn = null;

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const ORDERS = {
  confident: ["most confident mistakes first", (i) => (wrong(i) ? -2 : tested(i) ? 0 : 1) - items.probability[i]],
  unsure: ["least certain first", (i) => (tested(i) ? items.margin[i] : 9)],
  own: ["least probable own class first", (i) => (tested(i) ? items.own[i] : 9)],
  name: ["in the order of the data", (i) => i],
};

function style(i) {
  const c = items.label[i], color = (k) => COLORS[k % COLORS.length], s = items.split[i];
  return {
    classes: c < 0 ? GREY : color(c),
    result: !tested(i) ? GREY : wrong(i) ? COLORS[1] : COLORS[0],
    split: s < 0 ? GREY : color(s),
    classesShape: c < 0 ? "circle" : SHAPES[Math.floor(c / COLORS.length) % SHAPES.length][0],
    resultShape: wrong(i) ? "cross" : "circle",
    splitShape: SHAPES[Math.max(0, s) % SHAPES.length][0],
  };
}

const points = every.filter((i) => items.x && items.x[i] !== null)
  .map((i) => ({ i, x: items.x[i], y: items.y[i], ...style(i) }));
const pointOf = new Map(points.map((point) => [point.i, point]));

function caption(i) {
  const label = nameOf(items.label[i]);
  if (!tested(i)) return label;
  const p = items.probability[i].toFixed(2), predicted = nameOf(items.predicted[i]);
  return wrong(i) ? `${label}, taken for ${predicted} ${p}` : `${label} ${p}`;
}

function picture(i) {
  const pixels = items.picture[i];
  if (!pixels) return make("span", { className: "none", role: "img", ariaLabel: `no picture of ${items.id[i]}` }, "no picture");
  return make("img", { src: `data:image/webp;base64,${pixels}`, alt: `${items.id[i]}: ${caption(i)}`, decoding: "async" });
}

// The start and the end of a name tell it from others.
function brief(name, most) {
  const letters = [...name], end = Math.floor(most / 2);
  return letters.length > most ? [...letters.slice(0, most - 1 - end), "…", ...letters.slice(-end)].join("") : name;
}

function tile(i) {
  // The class is above the name of the file, so that the folders say nothing new.
  const lines = [brief(nameOf(items.label[i]), 28), brief(items.id[i].split("/").pop(), 14)];
  if (data.tested) lines.splice(1, 0, tested(i) ? `${items.probability[i].toFixed(2)} ${brief(nameOf(items.predicted[i]), 24)}` : "not tested");
  const figure = make("figure", { className: wrong(i) ? "wrong" : "", tabIndex: 0, title: `${items.id[i]}\n${caption(i)}` }, picture(i),
    make("figcaption", {}, ...lines.map((line) => make("div", { dir: "auto" }, line))));
  figure.dataset.item = i;
  for (const event of ["mouseenter", "focus"]) figure.addEventListener(event, () => spot([i]));
  for (const event of ["mouseleave", "blur"]) figure.addEventListener(event, () => spot([]));
  return figure;
}

const take = (list) => list.map((i) => pointOf.get(i)).filter(Boolean);
function spot(list) { if (views.map) views.map.data("spot", take(list)).runAsync(); }

function isChosen(i) {
  if (filter.list) return filter.list.has(i);
  if (filter.lasso) return pointOf.has(i) && isInside(pointOf.get(i), filter.lasso);
  const { t, p } = filter;
  if (t !== ANY && items.label[i] !== Number(t)) return false;
  return p === ANY || (p === WRONG ? wrong(i) : items.predicted[i] === Number(p));
}

function describe() {
  if (filter.title) return filter.title;
  if (filter.lasso) return "inside the lasso on the map";
  const parts = [filter.t === ANY ? "" : `true class ${nameOf(Number(filter.t))}`,
    filter.p === ANY ? "" : filter.p === WRONG ? "predicted wrongly" : `predicted ${nameOf(Number(filter.p))}`];
  return parts.filter(Boolean).join(", ") || "all items";
}

// A point is inside if a line from it to the right crosses the outline an odd number of times.
function isInside({ x, y }, corners) {
  let inside = false;
  corners.forEach(([ax, ay], k) => {
    const [bx, by] = corners.at(k - 1);
    if (ay > y !== by > y && x < ax + (y - ay) * (bx - ax) / (by - ay)) inside = !inside;
  });
  return inside;
}

function choose(change) {
  filter = { t: ANY, p: ANY, lasso: null, list: null, title: "", ...change };
  count = PAGE;
  const rank = ORDERS[$("order").value][1];
  shown = every.filter(isChosen).map((i) => [rank(i), i]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map((pair) => pair[1]);
  $("true").value = String(filter.t);
  $("predicted").value = String(filter.p);
  const all = shown.length === n;
  if (views.map) {
    views.map.signal("dim", !all).data("chosen", all ? [] : take(shown)).runAsync();
    placeLasso();
  }
  outlineCell();
  $("status").textContent = `${shown.length.toLocaleString("en")} of ${n.toLocaleString("en")} items: ${describe()}`;
  drawGrid();
}

function outlineCell() {
  if (!views.confusion) return;
  for (const name of ["t", "p"]) views.confusion.signal(`chosen_${name}`, [ANY, WRONG].includes(filter[name]) ? -1 : Number(filter[name]));
  views.confusion.runAsync();
}

function drawGrid() {
  $("grid").replaceChildren(...shown.slice(0, count).map(tile));
  $("more").hidden = shown.length <= count;
  $("more").textContent = `show ${Math.min(PAGE, shown.length - count)} more of ${(shown.length - count).toLocaleString("en")}`;
}

function tip(handler, event, item, value) {
  const box = $("tip");
  box.hidden = !value || !item || !item.datum || Boolean(drawn);
  if (box.hidden) return;
  const row = item.datum;
  if (row.i !== undefined) box.replaceChildren(picture(row.i), make("div", {}, caption(row.i)), make("div", {}, items.id[row.i]));
  else if (row.t !== undefined) {
    const own = every.filter((i) => items.label[i] === row.t && items.predicted[i] === row.p);
    box.replaceChildren(...own.slice(0, 8).map(picture), make("div", {}, `${row.n} of class ${nameOf(row.t)}, predicted ${nameOf(row.p)}`));
  }
  box.style.left = `${Math.max(0, Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 4))}px`;
  box.style.top = `${Math.max(0, Math.min(event.clientY + 14, innerHeight - box.offsetHeight - 4))}px`;
}

const config = {
  background: "transparent", view: { stroke: null }, font: "system-ui, sans-serif",
  axis: { labelColor: "currentColor", titleColor: "currentColor", gridColor: GREY, gridOpacity: 0.25, domainColor: GREY, tickColor: GREY },
};
async function draw(name, tables, canvas) {
  const chart = data.charts[name];
  const spec = { ...chart, datasets: { ...chart.datasets, ...tables } }, isNarrow = $("look").clientWidth < 600;
  if (isNarrow && data.shown?.length <= 8) spec.params = chart.params?.map((one) => (one.name === "names" ? { ...one, value: one.value.map((text) => brief(text, 16)) } : one));
  const colors = canvas ? { ...config, axis: { ...config.axis, labelColor: GREY, titleColor: GREY } } : config;
  const made = await vegaEmbed($(name.replace("_all", "")), spec,
    { actions: false, ast: true, renderer: canvas ? "canvas" : "svg", tooltip: tip, config: colors, mode: "vega-lite" });
  return made.view;
}

async function drawMap() {
  if (!data.charts.map) return;
  const rows = () => points.map((point) => Object.assign(point, { colour: point[mode], shape: point[`${mode}Shape`] }));
  const blank = { points: rows(), chosen: [], spot: [] };
  views.map = await draw("map", blank, true);
  views.map.signal("size", Math.min(45, Math.max(8, 80000 / points.length)));
  views.map.addResizeListener(placeLasso);
  $("mode").addEventListener("change", async () => {
    mode = $("mode").value;
    views.map.finalize();
    await drawMap();
    drawLegend();
    choose(filter);
  }, { once: true });
  drawLegend();
}

// A lasso is kept in the coordinates of the data, so that it stays where it is when the page gets another width.
function placeLasso() {
  const place = convert((scale, offset, value) => scale(value) + offset);
  drawLasso((filter.lasso || []).map(place));
}

function convert(change) {
  const view = views.map, pad = view.padding(), starts = [pad.left + view.origin()[0], pad.top + view.origin()[1]];
  const scales = [view.scale("x"), view.scale("y")];
  return (pair) => pair.map((value, k) => change(scales[k], starts[k], value));
}

function drawLasso(places) {
  const canvas = $("map").querySelector("canvas");
  $("lasso").setAttribute("viewBox", `0 0 ${canvas.clientWidth} ${canvas.clientHeight}`);
  $("lasso").firstElementChild.setAttribute("points", places.join(" "));
}

function allowLasso() {
  const area = $("map").parentElement, stop = () => { drawn = null; placeLasso(); };
  const add = (event) => {
    const box = $("map").querySelector("canvas").getBoundingClientRect();
    drawn.push([event.clientX - box.x, event.clientY - box.y]);
  };
  area.addEventListener("pointerdown", (event) => {
    if (event.button || !event.isPrimary) return;
    drawn = [];
    add(event);
    area.setPointerCapture(event.pointerId);
  });
  area.addEventListener("pointermove", (event) => {
    if (!drawn) return;
    add(event);
    $("tip").hidden = true;
    drawLasso(drawn);
  });
  area.addEventListener("pointerup", () => {
    if (!drawn) return;
    const [width, height] = [0, 1].map((k) => Math.max(...drawn.map((place) => place[k])) - Math.min(...drawn.map((place) => place[k])));
    const corners = drawn.map(convert((scale, offset, value) => scale.invert(value - offset)));
    stop();
    if (Math.max(width, height) > CLICK) choose({ lasso: corners }); // less is a click
  });
  area.addEventListener("pointercancel", stop);
  area.addEventListener("dblclick", () => choose({}));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (drawn) stop();
    else if (filter.lasso) choose({});
  });
}

function drawLegend() {
  const entry = (color, shape, text, change) => make("button", { title: text, onclick: () => choose(change) },
    Object.assign(make("span", {}, `${shape} `), { style: `color:${color}` }), brief(text, 28));
  const list = (test) => new Set(every.filter(test)), mark = (k) => SHAPES[k % SHAPES.length][1];
  const by = {
    classes: () => data.classes.length > 30 ? [`${data.classes.length} classes: point at an item for its class`]
      : data.classes.map((text, c) => entry(COLORS[c % COLORS.length], mark(Math.floor(c / COLORS.length)), text, { t: c })),
    result: () => [entry(COLORS[0], "●", "right", { list: list((i) => tested(i) && !wrong(i)), title: "right" }),
      entry(COLORS[1], "✚", "wrong", { p: WRONG }), entry(GREY, "●", "not tested", { list: list((i) => !tested(i)), title: "not tested" })],
    split: () => data.splits.map((text, s) => entry(COLORS[s % COLORS.length], mark(s), text, { list: list((i) => items.split[i] === s), title: `split ${text}` })),
  };
  $("legend").replaceChildren(...by[mode]());
}

async function drawConfusion(name) {
  if (!data.charts[name]) return;
  if (views.confusion) views.confusion.finalize();
  const shown = new Set(name === "confusion" ? data.shown : data.classes.keys()), size = shown.size;
  // Few classes would be too wide in the page; many, up to 30 whose names all are shown, scroll where it is narrow.
  Object.assign($("confusion").style, { maxWidth: size > 8 ? "" : `${90 * size + 300}px`, minWidth: size > 8 && size <= 30 ? `${13 * size + 190}px` : "" });
  const cells = data.cells.filter(({ t, p }) => shown.has(t) && shown.has(p));
  views.confusion = await draw(name, { cells }, cells.length > 3000);
  outlineCell();
  views.confusion.addEventListener("click", (_, item) => {
    const { t, p } = (item && item.datum) || {};
    choose(t === undefined || (filter.t === t && filter.p === p) ? {} : { t, p });
  });
}

function wilson(share, total) {
  const z = 1.959964, d = 1 + z * z / total, middle = (share + z * z / (2 * total)) / d;
  const half = z * Math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / d;
  return [middle - half, middle + half].map((end) => Math.min(1, Math.max(0, end)).toFixed(3));
}

async function drawCurves() {
  const curves = data.curves;
  if (!curves) return;
  const roc = await draw("roc", { others: [], curve: [], point: [] }), pr = await draw("pr", { others: [], curve: [], point: [] });
  const steps = (c) => curves.sensitivity[c].map((y, k) => ({ c, k: 100 - k, x: 1 - k / 100, y })).reverse();
  const recalls = (c) => curves.precision[c].map((y, k) => ({ c, k, x: k / 100, y }));
  const able = every.slice(0, 0).concat([...data.classes.keys()].filter((c) => curves.sensitivity[c]));
  const update = () => {
    const c = Number($("curve-class").value), at = Number($("specificity").value), k = Math.round(at * 100);
    const some = able.length <= 30 ? able.filter((other) => other !== c) : [];
    const y = curves.sensitivity[c][k], threshold = curves.threshold[c][k];
    roc.data("others", some.flatMap(steps)).data("curve", steps(c)).data("point", [{ x: 1 - at, y }]).runAsync();
    pr.data("others", some.flatMap(recalls)).data("curve", recalls(c)).runAsync();
    const [low, high] = wilson(y, curves.support[c]);
    $("operating").textContent = `${nameOf(c)}: at a specificity of at least ${at.toFixed(2)}, sensitivity ${y.toFixed(3)} `
      + `(95 % interval ${low} to ${high}), ${threshold === null ? "with no threshold" : `threshold ${threshold.toFixed(3)}`}`;
    for (const cell of document.querySelectorAll("[data-sensitivity]")) {
      const row = curves.sensitivity[Number(cell.dataset.sensitivity)];
      cell.textContent = row ? row[k].toFixed(3) : "-";
    }
    for (const head of document.querySelectorAll(".at")) head.textContent = at.toFixed(2);
  };
  for (const id of ["curve-class", "specificity"]) $(id).addEventListener("input", update);
  update();
}

function sortTable(head) {
  const table = head.closest("table"), at = head.cellIndex, body = table.tBodies[0];
  const falls = head.getAttribute("aria-sort") !== "descending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", falls ? "descending" : "ascending");
  const value = (row) => row.cells[at].textContent.replace(/^([\d,]+)$/, (digits) => digits.replaceAll(",", "")), sign = falls ? -1 : 1;
  const rank = (text) => (text === "-" ? 1 : 0); // what is undefined comes last, whatever the order
  const order = (a, b) => rank(value(a)) - rank(value(b)) || sign * (value(a) - value(b) || value(a).localeCompare(value(b), "en", { numeric: true }));
  body.append(...[...body.rows].sort(order));
}

async function start() {
  const option = (value, text) => make("option", { value: String(value) }, text);
  const classes = data.classes.map((text, c) => option(c, text));
  $("true").append(option(ANY, "any"), ...classes.map((one) => one.cloneNode(true)));
  for (const id of ["predicted", "order"]) $(id).parentNode.hidden = !data.tested; // nothing to choose
  $("predicted").append(option(ANY, every.every(tested) ? "any" : "any or none"), option(WRONG, "wrong"), ...classes);
  $("order").append(...Object.entries(ORDERS).filter(([key]) => data.tested || key === "name").map(([key, [text]]) => option(key, text)));
  for (const id of ["true", "predicted"]) $(id).addEventListener("change", () => choose({ t: $("true").value, p: $("predicted").value }));
  $("order").addEventListener("change", () => choose(filter));
  $("more").addEventListener("click", () => { count += PAGE; drawGrid(); });
  if (data.charts.map) $("mode").append(...Object.entries(MODES).filter(([key]) => key === "classes" || (key === "result" ? data.tested : data.splits.length)).map(([key, text]) => option(key, text)));
  for (const button of document.querySelectorAll("[data-class]")) button.onclick = () => { choose({ t: button.dataset.class }); $("look").scrollIntoView(); };
  for (const button of document.querySelectorAll("[data-list]")) button.onclick = () => {
    choose({ list: new Set(data.lists[button.dataset.list]), title: button.dataset.title });
    $("look").scrollIntoView();
  };
  for (const head of document.querySelectorAll("table.sorted thead th")) {
    Object.assign(head, { tabIndex: 0, onclick: () => sortTable(head), onkeydown: (event) => { if (event.key === "Enter") sortTable(head); } });
  }
  await drawMap();
  if (views.map) allowLasso();
  await drawConfusion("confusion");
  if ($("all-classes")) $("all-classes").onchange = () => drawConfusion($("all-classes").checked ? "confusion_all" : "confusion");
  await drawCurves();
  if (data.charts.reliability) await draw("reliability", {});
  choose(data.tested && every.some(wrong) ? { p: WRONG } : {});
  document.documentElement.dataset.ready = "yes";
}
start();
