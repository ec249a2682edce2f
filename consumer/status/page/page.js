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
const calendar = new Intl.DateTimeFormat("en", { month: "short", day: "numeric" });

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
const SILENCE_MS = 5000; // a snapshot comes each second

let source = null;
let paused = false;
let silence = 0;
let shownAt = "";

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

function moment(seconds) {
  const day = calendar.format(1000 * seconds);
  const time = clock.format(1000 * seconds);
  return day === calendar.format(Date.now()) ? time : `${day}, ${time}`;
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

function cell(content, kind = "", name = "td") {
  const node = document.createElement(name);
  node.className = kind;
  node.append(content);
  return node;
}

// A name or a text that others wrote: in its own direction, whatever stands beside it.
function foreign(text, kind, name) {
  const node = cell(text, kind, name);
  node.dir = "auto";
  return node;
}

function head(node) {
  node.scope = "row";
  return node;
}

// Touches only what differs, so that a selection and a screen reader's place stay where they are.
function settle(parent, wanted) {
  const old = [...parent.children];
  const nodes = wanted.map((node) => {
    const place = old.findIndex((one) => one.isEqualNode(node));
    return place < 0 ? node : old.splice(place, 1)[0];
  });
  for (const node of old) node.remove();
  nodes.forEach((node, place) => {
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] || null);
  });
}

function rows(id, wanted, nothing) {
  const body = at(id);
  if (wanted.length === 0) {
    const none = cell(nothing, "none");
    none.colSpan = body.parentElement.querySelectorAll("th[scope=col]:not([hidden])").length;
    wanted = [[none]];
  }
  const stays = ([first], place) => body.rows[place].cells[0].isEqualNode(first);
  if (body.rows.length === wanted.length && wanted.every(stays)) {
    wanted.forEach((cells, place) => settle(body.rows[place], cells));
    return;
  }
  const made = wanted.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells);
    return row;
  });
  settle(body, made);
}

function bar(value, top) {
  const svg = shape("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none" });
  svg.append(shape("rect", { x: 0, y: 0, height: 4, rx: 1, width: top ? (100 * (value || 0)) / top : 0 }));
  const node = cell(svg, "bar");
  node.setAttribute("aria-hidden", "true"); // as its head: the lag is in the cell before
  return node;
}

function showLanes(lanes) {
  const top = Math.max(...lanes.map((lane) => lane.lag || 0), 1);
  rows(
    "lanes",
    lanes.map((lane) => [
      head(cell(String(lane.partition), "", "th")),
      cell(badge(document.createElement("span"), STATES[lane.state] || ["wait", lane.state])),
      cell(count(lane.in_flight), "n"),
      cell(count(lane.lag), "n"),
      bar(lane.lag, top),
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
  at("breakers-part").hidden = now.breakers.length === 0;
  settle(
    at("breakers"),
    now.breakers.map(({ side, state }) => {
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
  settle(
    at("budget-rows"),
    budgets.map(({ tenant, period, limit_usd, left_usd, used_share }) => {
      const row = document.createElement("div");
      const name = document.createElement("dt");
      const figures = document.createElement("dd");
      const left = document.createElement("span");
      name.append(foreign(tenant || "everybody", "", "bdi"), `, ${PERIODS[period]}`);
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
  for (const column of document.querySelectorAll("th.text")) column.hidden = !now.shows_texts;
  const ending = (outcome) => (now.shows_texts ? [foreign(outcome.text || "", "text")] : []);
  const opening = (outcome) => [
    cell(moment(outcome.at)),
    head(foreign(outcome.event_id || "unreadable", "event", "th")),
    foreign(outcome.tenant || "–", "tenant"),
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
  shownAt = moment(now.at);
  show("shown-at", `as of ${shownAt}`);
}

function connect() {
  source = new EventSource("/events");
  source.onmessage = (message) => {
    listen();
    showNow(JSON.parse(message.data));
  };
  source.onerror = lost;
  listen();
}

// After an answer that is no stream a browser tries no more, and of a dead connection it may never hear: so this does.
function listen() {
  clearTimeout(silence);
  silence = setTimeout(() => {
    disconnect();
    lost();
    connect();
  }, SILENCE_MS);
}

function lost() {
  badge(at("state"), ["bad", shownAt ? `no connection since ${shownAt}, trying again` : "no connection, trying again"]);
}

function disconnect() {
  clearTimeout(silence);
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
