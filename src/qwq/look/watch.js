// Follows a run: the server sends its state whenever the files change.
"use strict";
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const NAMES = { reward: "reward", loss: "loss", length: "tokens an answer", entropy: "entropy, nats a token" };
let arrived = Date.now();
let state = JSON.parse($("data").textContent).state;

function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) if (value !== null) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const number = (x) => (typeof x === "number" ? String(+x.toPrecision(3)).replace("-", "\u2212") : x || "");

function duration(seconds) {
  const s = Math.round(seconds);
  const two = (x) => String(x).padStart(2, "0");
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
  return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
}

function stat(name, value) {
  return el("div", { class: "panel" }, el("div", { class: "soft small" }, name), el("div", { class: "big" }, value));
}

function age() {
  return state.age_s === null ? null : state.age_s + (Date.now() - arrived) / 1000;
}

function stats() {
  const last = state.last || {};
  const all = [
    ["reward", number(last.reward)], ["pass rate", typeof last.pass_rate === "number" ? `${(100 * last.pass_rate).toFixed(1)}%` : ""],
    ["loss", number(last.loss)], ["tokens an answer", number(last.length)], ["tokens a second", state.tokens_per_s === null ? "" : Math.round(state.tokens_per_s).toLocaleString("en")],
    ["seconds a step", number(last.seconds)], ["left in this stage", state.left_s ? duration(state.left_s) : ""],
    ["last step", state.finished || age() === null ? "" : `${duration(age())} ago`],
  ];
  return all.filter(([, value]) => value).map(([name, value]) => stat(name, value));
}

function curve(key, points) {
  const xs = points.map((p) => p[0]);
  const ys = points.map((p) => p[1]).filter(Number.isFinite);
  const low = Math.min(...ys);
  const high = Math.max(...ys);
  const x = (v) => (600 * (v - xs[0])) / Math.max(1, xs[xs.length - 1] - xs[0]);
  const y = (v) => 190 - (180 * (v - low)) / (high - low || 1);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 600 200");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "curve");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${NAMES[key]} by step, from ${number(points[0][1])} to ${number(points[points.length - 1][1])}`);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", points.filter((p) => Number.isFinite(p[1])).map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(""));
  svg.append(path);
  const range = `${number(low)} to ${number(high)}, step ${xs[0]} to ${xs[xs.length - 1]}`;
  return el("figure", { class: "panel" }, el("figcaption", {}, NAMES[key], el("span", {}, `now ${number(points[points.length - 1][1])}`)), svg, el("div", { class: "small soft" }, range));
}

function stage(s) {
  const scores = Object.entries(s.scores).map(([name, score]) => `${name} ${(100 * score).toFixed(1)}`).join(", ");
  const steps = s.step ? s.step.toLocaleString("en") + (s.steps ? ` of ${s.steps.toLocaleString("en")}` : "") : "";
  const tone = { finished: "good", running: "warn" }[s.state] || "";
  return el("tr", {}, el("td", {}, s.name), el("td", { class: "words" }, s.kind), el("td", { class: "words" }, el("span", { class: `chip ${tone}` }, s.state)),
    el("td", {}, steps), el("td", {}, s.seconds ? duration(s.seconds) : ""), el("td", { class: "words" }, scores));
}

function engine(e) {
  return el("tr", {}, el("td", {}, e.url), el("td", { class: "words" }, el("span", { class: `chip ${e.state === "ready" ? "good" : "warn"}` }, e.state)),
    ...[e.version, e.open, e.accepted, e.lost].map((n) => el("td", {}, n === null ? "" : n.toLocaleString("en"))));
}

// On a narrow screen a row is a block, and each cell says its column's name.
function named(rows) {
  const names = [...rows[0]?.closest("table").querySelectorAll("thead th") || []].map((th) => th.textContent);
  for (const row of rows) [...row.cells].forEach((cell, i) => cell.setAttribute("data-column", names[i]));
}

function render() {
  const now = state.stage;
  $("state").textContent = state.finished ? "finished" : now ? `running: ${now.name}` : "no step yet";
  $("state").className = `chip ${state.finished ? "good" : "warn"}`;
  $("line").textContent = now ? `${now.name}: step ${now.step.toLocaleString("en")}${now.steps ? ` of ${now.steps.toLocaleString("en")}` : ""}` : "";
  $("bar").hidden = !now || !now.steps;
  if (now && now.steps) {
    $("bar").max = now.steps;
    $("bar").value = now.step;
  }
  $("stats").replaceChildren(...stats());
  $("curves").replaceChildren(...Object.entries(state.curves).map(([key, points]) => curve(key, points)));
  $("alarms").replaceChildren(...(state.alarms.length
    ? [el("h2", {}, "Alarms"), el("ul", { class: "alarms" }, ...state.alarms.map((a) => el("li", {}, `${a.stage}, step ${a.step}: ${a.text}`)))] : []));
  $("stages").replaceChildren(...state.stages.map(stage));
  $("fleet").hidden = !state.engines.length;
  $("engines").replaceChildren(...state.engines.map(engine));
  named($("stages").rows);
  named($("engines").rows);
  document.title = `${state.run}: ${state.finished ? "finished" : now ? `${now.name} ${now.step}` : "live"}`;
}

render();
if (!state.finished) {
  const events = new EventSource("events");
  events.onmessage = (event) => {
    state = JSON.parse(event.data);
    arrived = Date.now();
    render();
    if (state.finished) events.close();
  };
  events.onerror = () => { $("line").textContent = "no connection: `qwq watch --serve` has ended, or the network is away"; };
  setInterval(() => $("stats").replaceChildren(...stats()), 5000);
}
