"use strict";

const SECONDS = 60; // of the graphs
const RETRY = 1000; // ms until a lost server is asked again
const PATIENCE = 30000; // ms for news: without any an answer comes within 10 s, and is written within 15
const EDGE = 56; // by how much lines between classes are lighter, as in the node's overlay

const $ = (id) => document.getElementById(id);
const canvas = $("canvas");
const context = canvas.getContext("2d");
const layer = document.createElement("canvas");
const layerContext = layer.getContext("2d");

let run = "";
let seen = { picture: 0, state: 0, sample: 0 };
let state = null;
let picture = null; // what is drawn: {head, bitmap, ids}
let samples = [];
let clock = { server: 0, here: 0 };
let hidden = new Set(); // names of classes that are not to be seen
let opacity = 0.5;
let bare = false;
let frozen = false; // of a source that cannot wait, only this page does
let missed = null; // the last picture that came meanwhile: its head and bytes
let turn = 0; // counts pictures that are to be drawn
let refused = ""; // why the last command was not obeyed
let lost = ""; // why there is no connection
let repaint = true; // whether the coloured layer is out of date

// --- what is kept from visit to visit -------------------------------------------------------------------------------

function remembered(key, otherwise) {
  try {
    const text = localStorage.getItem(`rt-seg:${key}`);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return otherwise;
  }
}

function remember(key, value) {
  try {
    localStorage.setItem(`rt-seg:${key}`, JSON.stringify(value));
  } catch { /* a browser that keeps nothing */ }
}

// --- news -----------------------------------------------------------------------------------------------------------

async function listen() {
  for (;;) {
    if (document.hidden) {
      await new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }));
      continue;
    }
    try {
      const asked = new URLSearchParams({ run, ...seen });
      const answer = await fetch(`news?${asked}`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (!answer.ok) throw new Error((await answer.text()).trim());
      await take(await answer.arrayBuffer());
      setLost("");
    } catch (error) {
      const gone = error instanceof TypeError || error.name === "TimeoutError";
      setLost(gone ? "the view has ended, or cannot be reached" : error.message);
      await new Promise((go) => setTimeout(go, RETRY));
    }
  }
}

async function take(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  if (head.run !== run) samples = [];
  run = head.run;
  seen = head.seen;
  clock = { server: head.now, here: performance.now() };
  for (const [time, total, network, wait, received, processed, dropped, rejected, age] of head.samples) {
    if (samples.length && received < samples[samples.length - 1].received) samples = []; // they are counted anew
    samples.push({ time, total, network, wait, received, processed, dropped, rejected, age });
  }
  while (samples.length && samples[0].time < head.now - SECONDS - 2) samples.shift();
  if (head.state) {
    if (state) compare(state, head.state);
    state = head.state;
    showState();
  }
  if (head.picture) {
    const bytes = new Uint8Array(buffer, 4 + length);
    if (frozen) missed = [head.picture, bytes];
    else await show(head.picture, bytes);
  }
  if (head.samples.length) showCounts();
}

/** Forget what another state makes untrue. */
function compare(former, next) {
  if (former.camera && former.camera !== next.camera) samples = []; // the other camera has counts of its own
  const said = next.message && next.message !== former.message;
  if (said || former.status !== next.status || former.model !== next.model) refused = "";
}

/** Draw a picture, unless another's turn has come by the time that it is unpacked. */
async function show(head, bytes) {
  const mine = ++turn;
  const jpeg = bytes.subarray(0, head.image_bytes);
  const packed = bytes.subarray(head.image_bytes, head.image_bytes + head.label_bytes);
  const [bitmap, ids] = await Promise.all([
    jpeg.length ? createImageBitmap(new Blob([jpeg], { type: "image/jpeg" })) : null,
    inflated(packed),
  ]);
  if (mine !== turn) {
    bitmap?.close();
    return;
  }
  picture?.bitmap?.close();
  picture = { head, bitmap, ids };
  repaint = true;
  draw();
  showShares();
}

async function inflated(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function command(what, value) {
  refused = "";
  showStatus();
  try {
    const answer = await fetch("command", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ do: what, value }),
    });
    const text = await answer.text();
    refused = answer.ok ? "" : answer.status === 409 ? JSON.parse(text).error : text.trim();
  } catch {
    refused = "the view cannot be reached";
  }
  if (state) showState(); // a choice that was refused goes back
}

// --- the picture ----------------------------------------------------------------------------------------------------

function draw() {
  if (!picture) return;
  const { head, bitmap } = picture;
  if (canvas.width !== head.width || canvas.height !== head.height) {
    canvas.width = head.width;
    canvas.height = head.height;
  }
  context.globalAlpha = 1;
  if (bitmap) {
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  } else {
    context.fillStyle = "#0c0e10";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  if (opacity > 0 && !bare && state && head.space === state.space) {
    if (repaint) paintLayer();
    context.globalAlpha = opacity;
    context.imageSmoothingEnabled = false;
    context.drawImage(layer, 0, 0, canvas.width, canvas.height);
  }
}

/** Paint the visible classes, with lighter lines between them, on the layer that is laid over the camera's image. */
function paintLayer() {
  const { head, ids } = picture;
  const width = head.label_width;
  const height = head.label_height;
  if (layer.width !== width || layer.height !== height) {
    layer.width = width;
    layer.height = height;
  }
  const fill = new Uint32Array(256);
  const line = new Uint32Array(256);
  for (const { id, name, color } of state.classes) {
    if (hidden.has(name)) continue;
    fill[id] = packedColour(color);
    line[id] = packedColour(color.map((value) => Math.min(255, value + EDGE)));
  }
  const image = layerContext.createImageData(width, height);
  const out = new Uint32Array(image.data.buffer);
  for (let y = 0, at = 0; y < height; y++) {
    const below = y + 1 < height ? width : 0;
    for (let x = 0; x < width; x++, at++) {
      const id = ids[at];
      const edge = ids[at + below] !== id || (x + 1 < width && ids[at + 1] !== id);
      out[at] = edge ? line[id] : fill[id];
    }
  }
  layerContext.putImageData(image, 0, 0);
  repaint = false;
}

const littleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

function packedColour([red, green, blue]) {
  return littleEndian
    ? ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0
    : ((red << 24) | (green << 16) | (blue << 8) | 255) >>> 0;
}

function classUnder(event) {
  if (!picture || !state || picture.head.space !== state.space) return null;
  const box = canvas.getBoundingClientRect();
  const scale = Math.min(box.width / canvas.width, box.height / canvas.height); // object-fit: contain
  const x = (event.clientX - box.left - (box.width - canvas.width * scale) / 2) / (canvas.width * scale);
  const y = (event.clientY - box.top - (box.height - canvas.height * scale) / 2) / (canvas.height * scale);
  if (x < 0 || y < 0 || x >= 1 || y >= 1) return null;
  const { label_width: width, label_height: height } = picture.head;
  const id = picture.ids[Math.floor(y * height) * width + Math.floor(x * width)];
  return state.classes.find((one) => one.id === id) ?? { name: "unlabelled", color: [0, 0, 0] };
}

// --- state ----------------------------------------------------------------------------------------------------------

const STATUS = { waiting: "waiting", running: "live", paused: "paused", ended: "ended", failed: "failed" };

function can(what) {
  return state.can.includes(what);
}

function showState() {
  $("source").textContent = state.source;
  document.title = `${state.source} · rt-seg view`;
  const own = state.models.some(({ name }) => name === state.model) ? [] : [{ name: state.model, label: state.model || "–" }];
  fillSelect($("model"), [...own, ...state.models], state.switching || state.model);
  $("model").disabled = !can("model") || !state.model;
  fillSelect($("camera"), state.cameras.map((name) => ({ name, label: name })), state.camera);
  $("camera-choice").hidden = state.cameras.length < (state.camera ? 2 : 1); // none is shown: even one is a choice
  $("camera").disabled = !can("camera");
  $("runs").textContent = state.model_details || "–";
  $("size").textContent = state.size || "–";
  $("size").parentElement.classList.toggle("long", state.size.includes(","));
  $("restart").hidden = $("restart-key").hidden = !can("restart");
  showClasses();
  showStatus();
  repaint = true;
  draw();
}

function fillSelect(select, choices, value) {
  const wanted = JSON.stringify(choices);
  if (select.dataset.choices !== wanted) {
    select.dataset.choices = wanted;
    select.replaceChildren(...choices.map(({ name, label }) => new Option(label, name)));
  }
  if (select.value !== value) select.value = value;
}

function showStatus() {
  const status = lost ? "lost" : state ? state.status : "waiting";
  const held = !lost && (status === "paused" || frozen);
  let text = lost ? "no connection" : held ? (status === "paused" ? "paused" : "picture held") : STATUS[status];
  if (!lost && status === "ended" && state.kind === "image") text = "still image";
  if (!lost && state?.switching) text = `loading ${state.switching}`;
  if ($("status").textContent !== text) $("status").textContent = text;
  $("dot").className = `dot ${held ? "" : status}`;
  const notice = (lost ? `No connection: ${lost}. Trying again.`
    : status === "failed" ? state.message
    : status === "ended" ? `${state.kind === "image" ? "" : "The source has ended."}\n${state.message}`
    : status === "waiting" && state ? state.message || "Waiting for frames." : "").trim();
  $("notice").hidden = !notice;
  $("notice").classList.toggle("middle", !picture);
  $("notice-text").textContent = notice;
  $("again").hidden = lost || !state || !can("restart") || !["ended", "failed"].includes(status);
  say(refused || (["running", "paused"].includes(status) ? state.message : "")); // else it is in the notice
  $("pause").hidden = !frozen && !["running", "paused"].includes(state?.status);
  const word = held ? "Go on" : "Pause";
  $("pause").setAttribute("aria-label", word);
  $("pause").title = `${word} (space)`;
  $("pause-icon").setAttribute("d", held ? "M6 4l10 6-10 6z" : "M6 4h3v12H6zM11 4h3v12h-3z");
}

function setLost(reason) {
  if (lost === reason) return;
  lost = reason;
  refused = "";
  showStatus();
}

function say(text) {
  if ($("message").textContent !== text) $("message").textContent = text;
}

// --- classes --------------------------------------------------------------------------------------------------------

let rows = new Map(); // by class id

function showClasses() {
  const list = $("classes");
  const wanted = JSON.stringify(state.classes);
  if (list.dataset.classes === wanted) return;
  list.dataset.classes = wanted;
  hidden = new Set(remembered(`hidden:${state.space_name}`, []));
  rows = new Map();
  list.replaceChildren(...state.classes.map(({ id, name, color }) => {
    const row = element("li", "class absent");
    const label = element("label");
    const box = element("input");
    box.type = "checkbox";
    box.checked = !hidden.has(name);
    box.dataset.name = name;
    box.addEventListener("change", () => setHidden((set) => (box.checked ? set.delete(name) : set.add(name))));
    const colour = `rgb(${color})`;
    row.style.setProperty("--colour", colour);
    row.style.setProperty("--tick", 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140 ? "#111" : "#fff");
    const only = element("button", "text only", "only");
    only.type = "button";
    only.setAttribute("aria-label", `only ${name}`);
    only.addEventListener("click", () => setHidden((set) => {
      for (const one of state.classes) set.add(one.name);
      set.delete(name);
    }));
    const share = element("span", "share", "–");
    const bar = element("span", "bar");
    const fill = element("i");
    fill.style.background = colour;
    bar.append(fill);
    label.append(box, element("span", "name", name), share, bar);
    row.append(label, only);
    rows.set(id, { row, share, fill });
    return row;
  }));
  showShares();
}

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function setHidden(change) {
  change(hidden);
  remember(`hidden:${state.space_name}`, [...hidden]);
  for (const box of document.querySelectorAll(".class input")) box.checked = !hidden.has(box.dataset.name);
  repaint = true;
  draw();
}

/** Show each class's share of the picture's pixels, and how far the source has come. */
function showShares() {
  if (!picture || picture.head.space !== state?.space) return;
  const { counts, label_width: width, label_height: height } = picture.head;
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0) || width * height;
  for (const [id, { row, share, fill }] of rows) {
    const part = (counts[id] ?? 0) / total;
    row.classList.toggle("absent", part === 0);
    share.textContent = part === 0 ? "–" : part < 0.001 ? "< 0.1 %" : `${(100 * part).toFixed(1)} %`;
    fill.style.transform = `scaleX(${part.toFixed(4)})`;
  }
  const position = picture.head.position;
  $("progress").hidden = !(state.frames > 1 && position >= 0);
  if (state.frames > 1) $("progress").firstElementChild.style.transform = `scaleX(${Math.min(1, (position + 1) / state.frames)})`;
}

// --- graphs ---------------------------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 34;
const BOTTOM = 18;

function svg(tag, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  return made;
}

function now() {
  return clock.server + (performance.now() - clock.here) / 1000;
}

function quantile(sorted, share) {
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : 0;
}

/** The least of 1, 2, 5 times a power of ten that is at least a quarter of the maximum: the distance of the grid. */
function step(maximum) {
  const power = 10 ** Math.floor(Math.log10(maximum / 4));
  return [1, 2, 5, 10].map((factor) => factor * power).find((distance) => distance * 4 >= maximum);
}

/** A plot over the last minute. `content(x, y, end)` gives its SVG elements; `told(at, end)` the words for a time. */
class Plot {
  constructor(id, top, content, told, summary) {
    Object.assign(this, { id, top, content, told, summary, at: null });
    this.box = $(id);
    this.figure = $(`${id}-figure`);
    this.svg = svg("svg");
    this.box.append(this.svg);
    new ResizeObserver(() => this.draw()).observe(this.box);
    this.box.addEventListener("pointermove", (event) => {
      const x = event.clientX - this.box.getBoundingClientRect().left;
      this.at = Math.max(0, Math.min(1, (x - LEFT) / (this.box.clientWidth - LEFT)));
      this.draw();
    });
    this.box.addEventListener("pointerleave", () => { this.at = null; this.draw(); });
    this.box.addEventListener("blur", () => { this.at = null; this.draw(); });
    this.box.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1 / SECONDS, ArrowRight: 1 / SECONDS }[event.key];
      if (!move) return;
      event.preventDefault();
      this.at = Math.max(0, Math.min(1, (this.at ?? 1) + move));
      this.draw();
    });
  }

  draw() {
    const width = this.box.clientWidth;
    const height = this.box.clientHeight;
    if (!width || !height) return;
    const end = now();
    const top = Math.max(this.top(end), 1e-3);
    const distance = step(top);
    const x = (time) => LEFT + (width - LEFT) * (1 - (end - time) / SECONDS);
    const y = (value) => 6 + (height - BOTTOM - 6) * (1 - value / top);
    const made = [];
    for (let value = 0; value <= top + 1e-9; value += distance) {
      made.push(svg("line", { class: "grid", x1: LEFT, x2: width, y1: y(value), y2: y(value) }));
      made.push(svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, `${+value.toPrecision(3)}`));
    }
    made.push(svg("text", { x: LEFT, y: height - 2 }, `${SECONDS} s ago`));
    made.push(svg("text", { x: width, y: height - 2, "text-anchor": "end" }, "now"));
    const clip = svg("clipPath", { id: `${this.id}-clip` });
    clip.append(svg("rect", { x: LEFT, y: 0, width: Math.max(0, width - LEFT), height: height - BOTTOM + 1 }));
    const group = svg("g", { "clip-path": `url(#${this.id}-clip)` });
    group.append(...this.content(x, y, end));
    made.push(clip, group);
    if (this.at !== null) {
      const time = end - SECONDS * (1 - this.at);
      made.push(svg("line", { class: "rule", x1: x(time), x2: x(time), y1: 6, y2: height - BOTTOM }));
      setFigure(this.figure, this.told(time, end));
    } else {
      setFigure(this.figure, this.summary(end));
    }
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren(...made);
  }
}

/** Show words of which those in bold stand between asterisks. */
function setFigure(box, text) {
  if (box.dataset.text === text) return;
  box.dataset.text = text;
  box.replaceChildren(...text.split("*").map((part, index) => (index % 2 ? element("b", "", part) : part)));
}

function ago(time, end) {
  return `${Math.max(0, end - time).toFixed(0)} s ago`;
}

/** By how many seconds two samples are apart where something is missing between them. */
function gap() {
  const between = samples.slice(1).map((one, i) => one.time - samples[i].time).sort((a, b) => a - b);
  return Math.max(2, 3 * quantile(between, 0.5));
}

function path(points, x, y, longest) {
  let text = "";
  let former = -Infinity;
  for (const [time, value] of points) {
    text += `${time - former > longest ? "M" : "L"}${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
    former = time;
  }
  return text;
}

const latency = new Plot(
  "latency",
  (end) => 1.15 * Math.max(quantile(sortedTotals(end), 0.98), 1),
  (x, y, end) => {
    const shown = recent(end);
    const longest = gap();
    const area = [];
    let begin = 0;
    for (let i = 1; i <= shown.length; i++) { // an area under each piece without a gap
      if (i < shown.length && shown[i].time - shown[i - 1].time <= longest) continue;
      const piece = shown.slice(begin, i);
      const first = x(piece[0].time).toFixed(1);
      const last = x(piece[piece.length - 1].time).toFixed(1);
      area.push(`${path(piece.map((one) => [one.time, one.total]), x, y, longest)}L${last} ${y(0)}L${first} ${y(0)}Z`);
      begin = i;
    }
    return [
      svg("path", { class: "area", d: area.join("") }),
      svg("path", { class: "network", d: path(shown.map((one) => [one.time, one.network]), x, y, longest) }),
      svg("path", { class: "total", d: path(shown.map((one) => [one.time, one.total]), x, y, longest), "data-points": shown.length }),
    ];
  },
  (time, end) => {
    const one = recent(end).reduce((best, other) =>
      (!best || Math.abs(other.time - time) < Math.abs(best.time - time) ? other : best), null);
    return one && Math.abs(one.time - time) < 2
      ? `${ago(one.time, end)}: *${ms(one.total)}*, network ${ms(one.network)}, waited ${ms(one.wait)}`
      : `${ago(time, end)}: nothing`;
  },
  (end) => {
    const totals = sortedTotals(end);
    if (!totals.length) return "";
    const most = latency.box.clientWidth > 420 ? `, most ${ms(totals[totals.length - 1])}` : "";
    return `median *${ms(quantile(totals, 0.5))}*, 95 % under *${ms(quantile(totals, 0.95))}*${most}`;
  },
);

const frames = new Plot(
  "frames",
  (end) => Math.max(2, 1.1 * Math.max(...perSecond(end).map((one) => one.processed + one.dropped))),
  (x, y, end) => {
    const made = [];
    const width = Math.max(1, x(1) - x(0) - 1.5);
    for (const { time, processed, dropped } of perSecond(end)) {
      const left = x(time) + 0.75;
      if (processed) made.push(bar("shown", left, width, y(processed), y(0)));
      if (dropped) made.push(bar("dropped", left, width, y(processed + dropped), y(processed)));
    }
    return made;
  },
  (time, end) => {
    const one = perSecond(end).find((second) => time >= second.time && time < second.time + 1);
    return `${ago(time, end)}: *${one?.processed ?? 0}* segmented, *${one?.dropped ?? 0}* dropped`;
  },
  (end) => {
    const shown = recent(end).filter((one) => one.time > end - Math.max(5, gap()));
    if (shown.length < 2) return "";
    const [first, last] = [shown[0], shown[shown.length - 1]];
    const rate = (last.processed - first.processed) / Math.max(last.time - first.time, 1e-3);
    const received = last.received - first.received;
    const dropped = received ? (100 * (last.dropped - first.dropped)) / received : 0;
    return `*${rate.toFixed(1)}* a second, *${dropped.toFixed(0)} %* dropped`;
  },
);

function bar(kind, x, width, top, bottom) {
  return svg("rect", { class: kind, x: x.toFixed(1), width: width.toFixed(1), y: top.toFixed(1), height: Math.max(0, bottom - top).toFixed(1), rx: 1 });
}

function recent(end) {
  return samples.filter((one) => one.time > end - SECONDS - 1);
}

function sortedTotals(end) {
  return recent(end).map((one) => one.total).sort((a, b) => a - b);
}

/** Frames by whole second of the server's clock, so that bars keep their heights while they move. */
function perSecond(end) {
  const seconds = new Map();
  const longest = gap();
  for (let i = 1; i < samples.length; i++) {
    const second = Math.floor(samples[i].time);
    if (second < end - SECONDS - 1) continue;
    const sum = seconds.get(second) ?? { time: second, processed: 0, dropped: 0 };
    if (samples[i].time - samples[i - 1].time < longest) { // else what was counted meanwhile is of no second in particular
      sum.processed += Math.max(0, samples[i].processed - samples[i - 1].processed);
      sum.dropped += Math.max(0, samples[i].dropped - samples[i - 1].dropped);
    }
    seconds.set(second, sum);
  }
  return [...seconds.values()];
}

function ms(value) {
  return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
}

function showCounts() {
  const last = samples[samples.length - 1];
  if (!last) return;
  for (const name of ["received", "processed", "dropped", "rejected"]) $(name).textContent = last[name].toLocaleString("en");
  $("age-fact").hidden = last.age === null;
  if (last.age !== null) $("age").textContent = ms(last.age);
}

setInterval(() => {
  if (document.hidden) return;
  latency.draw();
  frames.draw();
}, 200);

// --- controls -------------------------------------------------------------------------------------------------------

function setOpacity(percent, keep = true) {
  opacity = percent / 100;
  $("opacity").value = percent;
  $("opacity-value").textContent = `${percent} %`;
  if (keep) remember("opacity", percent);
  draw();
}

function setBare(on) {
  if (bare === on) return;
  bare = on;
  draw();
}

function togglePause() {
  if (!state) return;
  if (frozen) {
    frozen = false;
    if (missed) show(...missed);
    missed = null;
  } else if (can("pause")) {
    command("pause", state.status !== "paused");
  } else if (state.status === "running") {
    frozen = true;
  }
  showStatus();
}

function toggleFullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else $("stage").requestFullscreen?.();
}

let before = 50; // opacity before the overlay was switched off
function toggleOverlay() {
  const percent = Math.round(100 * opacity);
  if (percent) before = percent;
  setOpacity(percent ? 0 : before);
}

$("opacity").addEventListener("input", (event) => setOpacity(Number(event.target.value)));
$("model").addEventListener("change", (event) => command("model", event.target.value));
$("camera").addEventListener("change", (event) => command("camera", event.target.value));
$("pause").addEventListener("click", togglePause);
$("restart").addEventListener("click", () => command("restart"));
$("again").addEventListener("click", () => command("restart"));
$("full").addEventListener("click", toggleFullScreen);
$("all").addEventListener("click", () => setHidden((set) => set.clear()));
$("none").addEventListener("click", () => setHidden((set) => state?.classes.forEach((one) => set.add(one.name))));
$("bare").addEventListener("pointerdown", () => setBare(true));
for (const end of ["pointerup", "pointercancel"]) window.addEventListener(end, () => setBare(false));
$("bare").addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") setBare(true); });
$("bare").addEventListener("keyup", () => setBare(false));
$("bare").addEventListener("blur", () => setBare(false));

canvas.addEventListener("pointermove", (event) => {
  const found = classUnder(event);
  $("under").hidden = !found;
  if (found) {
    $("under-swatch").style.background = `rgb(${found.color})`;
    $("under-name").textContent = found.name;
  }
});
canvas.addEventListener("pointerleave", () => { $("under").hidden = true; });

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inControl = event.target.closest("input, select, button");
  if (event.key === " " && inControl) return; // it is that control's own
  if (event.target.closest("select")) return; // letters choose there
  const action = {
    " ": togglePause,
    o: toggleOverlay,
    c: () => setBare(true),
    a: () => setHidden((set) => set.clear()),
    f: toggleFullScreen,
    r: () => state && can("restart") && command("restart"),
  }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
document.addEventListener("keyup", (event) => { if (event.key === "c") setBare(false); });

// A token has done its work, it is a cookie by now: it need not stand in the address, nor in the history.
if (location.search) history.replaceState(null, "", location.pathname);
setOpacity(remembered("opacity", 50), false);
listen();
