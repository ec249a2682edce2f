"use strict";
// Shows what /events sends each second. Nothing from outside is ever read as markup: only as text.

const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const dollars = new Intl.NumberFormat("en", { style: "currency", currency: "USD" });
// two digits that count, and never fewer decimals than two
const cents = new Intl.NumberFormat("en", { style: "currency", currency: "USD", minimumSignificantDigits: 2, maximumSignificantDigits: 2, minimumFractionDigits: 2, maximumFractionDigits: 2, roundingPriority: "morePrecision" });
const clock = new Intl.DateTimeFormat("en", { timeStyle: "medium", hourCycle: "h23" });

const STATES = {
  serving: ["good", "serving"],
  opening: ["wait", "opening lanes"],
  joining: ["wait", "joining the group"],
  starting: ["wait", "starting"],
  draining: ["wait", "draining"],
  closed: ["bad", "closed"],
};
const BREAKERS = { closed: ["good", "closed, in use"], half_open: ["wait", "half open, probing"], open: ["bad", "open, left alone"] };

const PERIODS = { day: "today", month: "this month" };

let source = null;
let paused = false;

function show(id, text) {
  const node = at(id);
  if (node.textContent !== text) node.textContent = text; // a live region speaks only of news
}

function count(value) {
  return value === null || value === undefined ? "–" : whole.format(value);
}

function figure(value) {
  return value === null || value === undefined ? "–" : value >= 1000 ? whole.format(value) : short.format(value);
}

function percent(value) {
  return value === null || value === undefined ? "–" : `${tenths.format(100 * value)} %`;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds === 0) return "0 s";
  if (seconds < 1) return `${whole.format(1000 * seconds)} ms`;
  if (seconds < 120) return `${short.format(seconds)} s`;
  if (seconds < 7200) return `${whole.format(seconds / 60)} min`;
  return `${short.format(seconds / 3600)} h`;
}

function badge(node, [tone, word]) {
  node.className = "badge";
  node.dataset.tone = tone;
  if (node.textContent !== word) node.textContent = word;
  return node;
}

function shape(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function spark(id, values) {
  const svg = at(id);
  const top = Math.max(...values, 1e-9);
  const points = values.map((value, place) => `${place},${(20 - (19 * value) / top).toFixed(2)}`).join(" ");
  svg.setAttribute("viewBox", `0 0 ${values.length - 1} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren(
    shape("polygon", { class: "area", points: `0,20 ${points} ${values.length - 1},20` }),
    shape("polyline", { class: "line", points }),
  );
}

function cell(content, kind = "") {
  const node = document.createElement("td");
  node.className = kind;
  if (content instanceof Node) node.append(content);
  else {
    node.textContent = content;
    if (kind === "event") node.title = content;
  }
  return node;
}

function rows(id, wanted, nothing) {
  const body = at(id);
  const scroll = body.closest(".scroll");
  const columns = body.parentElement.querySelectorAll("th:not([hidden])").length;
  if (wanted.length === 0) {
    const none = cell(nothing, "none");
    none.colSpan = columns;
    wanted = [[none]];
  }
  const left = scroll.scrollLeft;
  body.replaceChildren(
    ...wanted.map((cells) => {
      const row = document.createElement("tr");
      row.append(...cells);
      return row;
    }),
  );
  scroll.scrollLeft = left;
}

function bar(value, top) {
  const svg = shape("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(shape("rect", { x: 0, y: 0, height: 4, rx: 1, width: top ? (100 * (value || 0)) / top : 0 }));
  return svg;
}

function showLanes(lanes) {
  const top = Math.max(...lanes.map((lane) => lane.lag || 0), 1);
  rows(
    "lanes",
    lanes.map((lane) => [
      cell(String(lane.partition)),
      cell(badge(document.createElement("span"), STATES[lane.state] || ["wait", lane.state])),
      cell(count(lane.in_flight), "n"),
      cell(count(lane.lag), "n"),
      cell(bar(lane.lag, top), "bar"),
    ]),
    "This process owns no partition.",
  );
}

function showEngine(now) {
  const engine = now.engine;
  show("engine-name", engine ? engine.name : "not ready yet");
  show("engine-model", engine ? [engine.model, engine.quantization].filter(Boolean).join(", ") : "");
  const minute = engine ? engine.minute : {};
  show("busy", percent(minute.busy_ratio));
  at("busy-meter").value = minute.busy_ratio || 0;
  show("padding", percent(minute.padding_ratio));
  at("padding-meter").value = minute.padding_ratio || 0;
  show("fill", figure(minute.chunks_per_batch));
  show("batches", engine ? count(engine.batches) : "–");
  show("queued", engine ? duration(engine.queued_audio_seconds) : "–");
  show("realtime", figure(minute.realtime_factor));
  if (engine) spark("realtime-spark", engine.realtime_series);
  at("breakers").replaceChildren(
    ...now.breakers.map(({ side, state }) => {
      const row = document.createElement("li");
      const name = document.createElement("span");
      name.textContent = side;
      row.append(name, badge(document.createElement("span"), BREAKERS[state] || ["wait", state]));
      return row;
    }),
  );
}

function meter(share, label) {
  const node = document.createElement("meter");
  node.max = 1;
  node.high = 0.8;
  node.value = Math.min(share, 1);
  node.setAttribute("aria-label", label);
  return node;
}

function money(usd) {
  return (usd && usd < 1 ? cents : dollars).format(usd);
}

function showBudgets(budgets) {
  at("budgets").hidden = budgets.length === 0;
  at("budget-rows").replaceChildren(
    ...budgets.map(({ tenant, period, limit_usd, left_usd, used_share }) => {
      const row = document.createElement("div");
      const name = document.createElement("dt");
      const figures = document.createElement("dd");
      const left = document.createElement("span");
      name.textContent = `${tenant || "everybody"}, ${PERIODS[period]}`;
      left.textContent = left_usd ? `${money(left_usd)} of ${money(limit_usd)} left` : `${money(limit_usd)} used up`;
      figures.append(meter(used_share, `${name.textContent}: used ${percent(used_share)}`), left);
      row.append(name, figures);
      return row;
    }),
  );
}

function showTotals(now) {
  const totals = now.totals;
  show("transcribed", count(totals.transcribed));
  show("cached", count(totals.cached));
  show("dead-lettered", count(totals.dead_lettered));
  show("moved", count(totals.moved));
  show("audio", duration(totals.audio_seconds));
  show("cost", money(totals.cost_usd));
  show("wer", totals.reference_words ? percent(totals.wrong_words / totals.reference_words) : "–");
  show("up", duration(now.up_seconds));
}

function showLatest(now) {
  for (const head of document.querySelectorAll("th.text")) head.hidden = !now.shows_texts;
  const ending = (outcome) => (now.shows_texts ? [cell(outcome.text || "", "text")] : []);
  const opening = (outcome) => [
    cell(clock.format(1000 * outcome.at)),
    cell(outcome.event_id || "unreadable", "event"),
    cell(outcome.tenant || "–", "tenant"),
  ];
  rows(
    "transcripts",
    now.transcripts.map((one) => [
      ...opening(one),
      cell(one.code),
      cell(duration(one.audio_seconds), "n"),
      cell(duration(one.latency_seconds), "n"),
      ...ending(one),
    ]),
    "None yet.",
  );
  rows(
    "letters",
    now.dead_letters.map((one) => [...opening(one), cell(one.code), cell(duration(one.latency_seconds), "n"), ...ending(one)]),
    "None.",
  );
}

function showNow(now) {
  badge(at("state"), STATES[now.state] || ["wait", now.state]);
  show("group", `group ${now.group_id}, topics ${now.topic_prefix}.*`);
  show("version", now.version);
  show("events-per-second", figure(now.throughput.events_per_second));
  spark("events-spark", now.throughput.events_series);
  const latency = now.latency || {};
  show("p50", duration(latency.p50));
  show("latency-rest", `p95 ${duration(latency.p95)}, p99 ${duration(latency.p99)}`);
  show("lag", count(now.lag));
  show("in-flight", `offsets behind, ${count(now.in_flight_events)} events in flight`);
  show("audio-in-flight", duration(now.in_flight_audio_seconds));
  show("block", duration(now.loop_block_seconds));
  showLanes(now.lanes);
  showEngine(now);
  showBudgets(now.budgets);
  showTotals(now);
  showLatest(now);
  show("shown-at", `as of ${clock.format(1000 * now.at)}`);
}

function connect() {
  source = new EventSource("/events");
  source.onmessage = (message) => showNow(JSON.parse(message.data));
  source.onerror = () => badge(at("state"), ["bad", "no connection, trying again"]);
}

function disconnect() {
  source.close();
  source = null;
}

at("pause").addEventListener("click", () => {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  if (paused) {
    disconnect();
    badge(at("state"), ["wait", "paused"]);
  } else connect();
});

// a page that nobody sees asks for nothing
document.addEventListener("visibilitychange", () => {
  if (document.hidden && source) disconnect();
  else if (!document.hidden && !source && !paused) connect();
});

connect();
