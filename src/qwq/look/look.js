// Lists answers, filters them, shows one with its group. Text from models goes into text nodes alone.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const PAGE = 100;
const SIDES = 8;
const FIELDS = ["text", "outcome", "stage", "task", "step", "min", "max", "sort"];
let first = 0;
let rows = [];
let total = 0;
let shaded = false;
let shown = null;
let request = 0;

function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

const number = (x) => (x === null || x === undefined ? "" : String(+x.toPrecision(3)).replace("-", "\u2212"));
const signed = (x) => (x > 0 ? "+" : "") + number(x);
const tone = (outcome) => (outcome === "correct" ? "good" : outcome === "wrong" ? "bad" : outcome ? "warn" : "");
const chip = (outcome) => el("span", { class: `chip ${tone(outcome)}` }, outcome || "not judged");

function query() {
  const values = Object.fromEntries(FIELDS.map((name) => [name, $(name).value.trim()]));
  values.reverse = $("reverse").checked ? "1" : "";
  return values;
}

// -- where answers come from: inside the page, or from the server that sent it -----------------------------------

function steps(text) {
  const [low, high] = text.split(":");
  return text.includes(":") ? [+low || 1, +high || Infinity] : [+low, +low];
}

function fits(answer, q, range) {
  return (!q.outcome || answer.outcome === q.outcome)
    && (!q.stage || answer.stage === q.stage)
    && (!q.task || answer.task === q.task)
    && (!range || (answer.step !== null && answer.step >= range[0] && answer.step <= range[1]))
    && (!q.min || (answer.reward !== null && answer.reward >= +q.min))
    && (!q.max || (answer.reward !== null && answer.reward <= +q.max))
    && (!q.text || answer.search.includes(q.text.toLowerCase()));
}

function search(answer) {
  return [answer.prompt, answer.output, answer.reason, answer.expected, answer.problem_id].join("\n").toLowerCase();
}

const inside = {
  answers: new Map((data.answers || []).map((a) => [a.number, Object.assign(a, { search: search(a) })])),
  async list(q, from) {
    const range = q.step ? steps(q.step) : null;
    let hits = data.answers.filter((a) => fits(a, q, range));
    if (q.sort !== "order") {
      const sign = q.reverse ? -1 : 1;
      const value = (a) => (a[q.sort] === null ? Infinity : sign * a[q.sort]);
      hits = hits.slice().sort((a, b) => (value(a) === value(b) ? 0 : value(a) < value(b) ? -1 : 1));
    } else if (q.reverse) {
      hits = hits.slice().reverse();
    }
    return { total: hits.length, rows: hits.slice(from, from + PAGE) };
  },
  async answer(n) {
    const answer = this.answers.get(n);
    if (!answer) throw new Error(`answer ${n} is not in this page`);
    return { ...answer, group: data.answers.filter((a) => a.group_key === answer.group_key) };
  },
};

async function ask(path, fields) {
  const response = await fetch(`${path}?${new URLSearchParams(fields)}`);
  const value = await response.json();
  if (!response.ok) throw new Error(value.error);
  return value;
}

const served = {
  list: (q, from) => ask("list", { ...q, from }),
  answer: (n) => ask("answer", { n }),
};

const source = data.answers ? inside : served;

// -- the list ------------------------------------------------------------------------------------------------------

async function list() {
  const mine = ++request;
  try {
    const hits = await source.list(query(), first);
    if (mine !== request) return; // another filter was set meanwhile
    ({ rows, total } = hits);
    $("count").textContent = `${total.toLocaleString("en")} of ${data.total.toLocaleString("en")} answers`
      + (total > PAGE ? `, ${first + 1} to ${Math.min(first + PAGE, total)} shown` : "");
  } catch (error) {
    rows = [];
    total = 0;
    $("count").textContent = error.message;
  }
  $("rows").replaceChildren(...rows.map(row));
  $("before").disabled = first === 0;
  $("next").disabled = first + PAGE >= total;
}

function row(a) {
  const line = el("tr", { "data-n": a.number, "aria-current": a.number === shown ? "true" : null });
  line.append(
    el("td", {}, el("a", { href: `#${a.number}` }, String(a.number))),
    el("td", { class: "words extra" }, a.step === null ? a.stage : `${a.stage} ${a.step}`),
    el("td", { class: "words extra" }, a.task),
    el("td", { class: "words" }, chip(a.outcome)),
    el("td", {}, number(a.reward)),
    el("td", { class: "extra" }, a.advantage === null ? "" : signed(a.advantage)),
    el("td", { class: "extra" }, a.tokens.toLocaleString("en")),
    el("td", { class: "words" }, a.answer || a.final.slice(0, 80)),
  );
  line.addEventListener("click", () => { location.hash = String(a.number); });
  return line;
}

function restart() {
  first = 0;
  list();
}

// -- one answer ----------------------------------------------------------------------------------------------------

const block = (title, value, kind = "") => (value ? [el("h3", {}, title), el("div", { class: `block ${kind}`, tabindex: "0", role: "region", "aria-label": title }, value)] : []);

function tokens(a) {
  const body = el("div", { class: "block shade", tabindex: "0", role: "region", "aria-label": "Answer by token" });
  for (const [piece, p] of a.pieces) {
    const level = p === null ? "unsampled" : p < 0.05 ? "p4" : p < 0.2 ? "p3" : p < 0.5 ? "p2" : p < 0.8 ? "p1" : "";
    body.append(el("span", { class: level, title: p === null ? "not sampled" : `${(100 * p).toFixed(1)}%` }, piece));
  }
  return [el("h3", {}, "Answer by token"),
    el("p", { class: "small soft" }, "Shaded: tokens of less than 80%, 50% and 20% probability; underlined: less than 5%. Point at one for its figure."), body];
}

function terms(a) {
  const cells = Object.entries(a.rewards);
  if (!cells.length) return a.reward === null ? [] : [el("p", {}, `Reward ${number(a.reward)}`)];
  const body = cells.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, number(value))));
  body.push(el("tr", {}, el("th", { scope: "row" }, "sum"), el("td", {}, el("b", {}, number(a.reward)))));
  return [el("h3", {}, "Rewards by term"), el("div", { class: "scroll" }, el("table", { class: "terms" }, el("tbody", {}, ...body)))];
}

function side(a, current) {
  const kind = a.outcome === "correct" ? "right" : a.outcome === "wrong" ? "wrong" : "";
  const figures = `reward ${number(a.reward)}${a.advantage === null ? "" : `, advantage ${signed(a.advantage)}`}, ${a.tokens.toLocaleString("en")} tokens`;
  return el("div", { class: `side ${kind}`, "aria-current": a.number === current ? "true" : null },
    el("div", {}, el("a", { href: `#${a.number}` }, `#${a.number}`), " ", chip(a.outcome)),
    el("div", { class: "small soft" }, figures),
    a.thinking ? el("details", {}, el("summary", {}, "Thinking"), el("div", {}, el("pre", { tabindex: "0" }, a.thinking))) : null,
    el("pre", { tabindex: "0" }, a.final || "\u2013"));
}

function group(a) {
  if (a.group.length < 2) return [];
  const others = [a, ...a.group.filter((b) => b.number !== a.number)];
  const grid = el("div", { class: "sides group" }, ...others.slice(0, SIDES).map((b) => side(b, a.number)));
  const more = others.length > SIDES
    ? el("button", { type: "button", onclick: (event) => { event.target.remove(); grid.append(...others.slice(SIDES).map((b) => side(b, a.number))); } }, `Show the other ${others.length - SIDES}`)
    : null;
  return [el("h3", {}, `Group: ${a.group.length} answers to this prompt`), grid, ...(more ? [el("p", {}, more)] : [])];
}

function facts(a) {
  const all = { "read out": a.answer, verifier: a.verifier, "ended by": a.stop_reason, tokens: a.tokens.toLocaleString("en"),
    "thinking budget": a.budget, sample: a.sample, advantage: a.advantage === null ? null : signed(a.advantage), ...a.facts };
  return el("ul", { class: "meta" }, ...Object.entries(all).filter(([, v]) => v !== null && v !== "" && v !== undefined)
    .map(([name, value]) => el("li", {}, `${name} `, el("b", {}, String(value)))));
}

function render(a) {
  const where = [a.stage, a.step === null ? null : `step ${a.step}`, a.task].filter((x) => x).join(", ");
  const by = a.pieces && a.pieces.length
    ? el("button", { type: "button", "aria-pressed": String(shaded), onclick: () => { shaded = !shaded; render(a); } }, "Tokens by probability") : null;
  const text = shaded && by ? tokens(a) : [...block("Thinking", a.thinking, "thought"), ...block("Answer", a.final || "(empty)")];
  $("answer").replaceChildren(
    el("h2", {}, `#${a.number} `, chip(a.outcome)),
    el("p", { class: "soft" }, `${where}, problem ${a.problem_id}`),
    el("div", { class: "pager" }, el("a", { href: "#list", class: "back" }, "Back to the list"),
      el("button", { type: "button", onclick: () => move(-1) }, "Previous"), el("button", { type: "button", onclick: () => move(1) }, "Next"), by),
    ...(a.reason ? [el("p", {}, el("b", {}, "Verdict: "), a.reason)] : []),
    facts(a),
    ...block("Prompt", a.prompt), ...block("Expected", a.expected), ...text, ...block("Calls", a.calls), ...terms(a), ...group(a),
  );
}

async function open() {
  const n = Number(location.hash.slice(1));
  if (!n) return;
  try {
    const answer = await source.answer(n);
    shown = n;
    render(answer);
  } catch (error) {
    $("answer").replaceChildren(el("p", { role: "alert" }, error.message));
  }
  for (const line of $("rows").children) line.toggleAttribute("aria-current", Number(line.dataset.n) === n);
  if (matchMedia("(max-width: 900px)").matches) $("answer").scrollIntoView();
  $("answer").focus({ preventScroll: true });
}

async function move(by) {
  const at = rows.findIndex((r) => r.number === shown);
  let to = at < 0 ? 0 : at + by;
  if (to >= rows.length && first + PAGE < total) {
    first += PAGE;
    await list();
    to = 0;
  } else if (to < 0 && first > 0) {
    first -= PAGE;
    await list();
    to = rows.length - 1;
  }
  if (rows[to]) location.hash = String(rows[to].number);
}

// -- setting up ----------------------------------------------------------------------------------------------------

for (const name of ["outcome", "stage", "task"]) {
  $(name).append(el("option", { value: "" }, "all"), ...data.names[name].map((word) => el("option", { value: word }, word || "not judged")));
}
let typed;
$("filters").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(restart, 120);
});
$("filters").addEventListener("submit", (event) => { event.preventDefault(); restart(); });
$("filters").addEventListener("reset", () => setTimeout(restart));
$("before").addEventListener("click", () => { first = Math.max(0, first - PAGE); list(); });
$("next").addEventListener("click", () => { first += PAGE; list(); });
window.addEventListener("hashchange", open);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
  if (event.key === "/") {
    event.preventDefault();
    $("text").focus();
  }
});
list().then(open);
