// The table of trials: columns, sorting, filters, and which row is chosen. Texts are set as text, never as markup.
"use strict";

const Metrics = {
  known: {},

  format(name, value) {
    if (value === undefined || value === null) return "–";
    const unit = (Metrics.known[name] || {}).unit;
    if (unit === "parameters") return scaled(value, [[1e9, "B"], [1e6, "M"], [1e3, "k"]], "");
    if (unit === "B") return scaled(value, [[2 ** 30, " GiB"], [2 ** 20, " MiB"], [2 ** 10, " KiB"]], " B");
    if (unit === "FLOP") return scaled(value, [[1e12, " TFLOP"], [1e9, " GFLOP"], [1e6, " MFLOP"]], " FLOP");
    if (unit === "J") return scaled(value, [[1e6, " MJ"], [1e3, " kJ"]], " J");
    if (unit === "ms") return `${Number(value.toPrecision(3))} ms`;
    return value.toFixed(4);
  },

  short(name) { return (Metrics.known[name] || { short: name }).short; },
  isLog(name) { return ["parameters", "B"].includes((Metrics.known[name] || {}).unit); },
};

function scaled(value, sizes, plain) {
  for (const [size, unit] of sizes) if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))}${unit}`;
  return `${Math.round(value)}${plain}`;
}

const Trials = (() => {
  const SHOWN = 200;
  const USUAL = ["trainable_params", "peak_memory_bytes", "latency_ms", "ece", "calibrated_ece"];
  const ORDER = ["front", "dominated", "partial", "infeasible", "failed", "paused", "running", "references"];
  const table = document.getElementById("trials");
  const filters = document.getElementById("filters");
  const more = document.getElementById("more");
  const state = { trials: [], columns: [], sort: null, descending: false, tag: "all", chosen: null, all: false, pick: null, isLive: false };
  let onChoose = () => {};

  function update(trials, objectives, pick, isLive) {
    state.isLive = isLive;
    state.trials = trials.filter((one) => one.phase !== "finalists");
    state.pick = pick;
    const names = [...new Set([...objectives, ...USUAL])];
    state.columns = names.filter((name) => objectives.includes(name) || state.trials.some((one) => name in one.metrics));
    table.closest("section").hidden = !state.trials.length;
    drawHead();
    drawFilters();
    drawBody();
  }

  function drawHead() {
    const row = document.createElement("tr");
    const heads = [["number", "#", ""], ["tag", "State", ""], ["parts", "Candidate", ""],
      ...state.columns.map((name) => [name, Metrics.short(name), "number"]), ["steps", "steps", "number"]];
    for (const [key, text, kind] of heads) row.append(headCell(key, text, kind));
    table.tHead.replaceChildren(row);
  }

  function headCell(key, text, kind) {
    const cell = document.createElement("th");
    cell.className = kind;
    cell.title = (Metrics.known[key] || { text: "" }).text;
    if (state.sort === key) cell.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.dataset.sort = key;
    cell.append(button);
    return cell;
  }

  function drawFilters() {
    const counts = { all: state.trials.length };
    for (const one of state.trials) counts[one.tag] = (counts[one.tag] || 0) + 1;
    if (!(state.tag in counts)) state.tag = "all";
    const shown = ["all", ...ORDER.filter((tag) => counts[tag])];
    const known = new Map([...filters.children].map((button) => [button.dataset.tag, button]));
    filters.replaceChildren(...shown.map((tag) => filter(known.get(tag), tag, counts[tag])));
  }

  function filter(button, tag, count) {
    const one = button || document.createElement("button");
    one.type = "button";
    one.dataset.tag = tag;
    one.textContent = `${said(tag)} ${count}`;
    one.setAttribute("aria-pressed", String(state.tag === tag));
    return one;
  }

  function drawBody() {
    const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.key : null;
    const chosen = state.trials.filter((one) => state.tag === "all" || one.tag === state.tag).sort(compare);
    const shown = state.all ? chosen : chosen.slice(0, SHOWN);
    table.tBodies[0].replaceChildren(...shown.map(row));
    more.hidden = shown.length === chosen.length;
    more.textContent = `Show all ${chosen.length}`;
    if (focused) rowOf(focused)?.focus({ preventScroll: true });
  }

  function row(one) {
    const line = document.createElement("tr");
    line.tabIndex = 0;
    line.dataset.key = one.key;
    const isPick = one.phase === "search" && one.number === state.pick;
    line.className = [isPick ? "picked" : "", ["front", "dominated"].includes(one.tag) ? "" : "muted"].join(" ").trim();
    if (one.key === state.chosen) { line.classList.add("chosen"); line.setAttribute("aria-selected", "true"); }
    line.append(cell(one.phase === "search" ? String(one.number) : "–", "mono"), tagCell(one, isPick), candidateCell(one));
    for (const name of state.columns) line.append(metricCell(name, one.metrics));
    line.append(cell(one.steps ? String(one.steps) : "–", "number"));
    return line;
  }

  function cell(text, kind) {
    const one = document.createElement("td");
    one.className = kind;
    one.textContent = text;
    return one;
  }

  // A binned calibration error means little without what a perfectly calibrated model would show.
  function metricCell(name, metrics) {
    const box = cell(Metrics.format(name, metrics[name]), "number");
    const floor = metrics[`${name}_floor`], p = metrics[`${name}_p_value`];
    if (floor === undefined) return box;
    const beside = document.createElement("span");
    beside.className = "sub";
    beside.textContent = `floor ${floor.toFixed(3)}` + (p === undefined ? "" : `, p ${p.toFixed(3)}`);
    box.append(beside);
    return box;
  }

  function tagCell(one, isPick) {
    const box = cell("", "");
    const label = document.createElement("span");
    label.className = `tag ${isPick ? "pick" : one.tag}`;
    label.textContent = one.phase === "references" ? "reference" : isPick ? "front, pick" : said(one.tag);
    box.append(label);
    return box;
  }

  // What runs when its study stops is trained again when the study goes on.
  function said(tag) { return tag === "running" && !state.isLive ? "cut off" : tag; }

  function candidateCell(one) {
    const box = cell(one.phase === "references" ? `${one.parts} (${one.origin})` : one.parts, "mono candidate");
    if (one.phase === "references" && one.parts === one.origin) box.firstChild.textContent = one.parts;
    box.title = one.notation;
    const why = [one.cause, one.message].filter(Boolean).join(": ");
    if (why) {
      const note = document.createElement("span");
      note.className = "sub message";
      note.textContent = why;
      box.append(note);
    }
    return box;
  }

  function value(one, key) {
    if (key === "tag") return ORDER.indexOf(one.tag);
    if (key in one.metrics) return one.metrics[key];
    return key in one && one[key] !== null ? one[key] : undefined;
  }

  // Unsorted: the search in order, the references after it. What has no value goes last either way.
  function compare(a, b) {
    if (!state.sort) return a.phase === b.phase ? a.number - b.number : a.phase === "search" ? -1 : 1;
    const [left, right] = [value(a, state.sort), value(b, state.sort)];
    if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
    const sign = left < right ? -1 : left > right ? 1 : 0;
    return (state.descending ? -sign : sign) || a.number - b.number;
  }

  function rowOf(key) {
    return [...table.tBodies[0].rows].find((one) => one.dataset.key === key);
  }

  function choose(key, { scroll = false } = {}) {
    state.chosen = state.chosen === key && !scroll ? null : key;
    if (scroll && !rowOf(key)) { state.tag = "all"; state.all = true; drawFilters(); drawBody(); }
    for (const one of table.tBodies[0].rows) {
      const is = one.dataset.key === state.chosen;
      one.classList.toggle("chosen", is);
      if (is) one.setAttribute("aria-selected", "true"); else one.removeAttribute("aria-selected");
    }
    if (scroll) rowOf(key)?.scrollIntoView({ block: "center", behavior: "smooth" });
    onChoose(state.chosen);
  }

  table.tHead.addEventListener("click", (event) => {
    const key = event.target.dataset.sort;
    if (!key) return;
    const better = (Metrics.known[key] || {}).direction;
    state.descending = state.sort === key ? !state.descending : better === "maximize";
    state.sort = key;
    drawHead();
    drawBody();
    table.tHead.querySelector(`[data-sort="${key}"]`).focus();
  });
  table.tBodies[0].addEventListener("click", (event) => {
    const line = event.target.closest("tr");
    if (line && !String(getSelection())) choose(line.dataset.key);
  });
  table.tBodies[0].addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose(event.target.closest("tr").dataset.key);
  });
  table.tBodies[0].addEventListener("mouseover", (event) => {
    const line = event.target.closest("tr");
    if (line) Chart.hover(line.dataset.key);
  });
  table.tBodies[0].addEventListener("mouseleave", () => Chart.hover(null));
  filters.addEventListener("click", (event) => {
    const tag = event.target.dataset.tag;
    if (!tag) return;
    state.tag = tag;
    drawFilters();
    drawBody();
  });
  more.addEventListener("click", () => { state.all = true; drawBody(); });

  return { update, choose, listen(callback) { onChoose = callback; } };
})();
